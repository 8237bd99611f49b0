"""A run of some hundred steps with 4 loader workers does not grow; benchmarks/soak.py does the long one."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.runs import ROOT

pytestmark = [pytest.mark.slow]
STEPS = 400
MOST_KIB = 8 * 1024
"""Growth of the trainer's or a worker's own memory in the last 300 steps, 27 KiB a step. Measured: 3 MiB for
the trainer, its heap at the first checkpoints (docs/benchmarks/soak.md), and 2 KiB for a worker."""


def test_memory_and_open_files_of_trainer_and_workers_stay(tmp_path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "soak.py"),
            "--steps",
            str(STEPS),
            "--every",
            "0.3",
            "--save-every",
            "100",
        ],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

    document = json.loads(done.stdout.splitlines()[-1])
    table = document["after_warm_up"]
    # 4 workers read the training split, 4 the validation split.
    assert document["steps"] == STEPS and table["workers"]["lowest"] == table["workers"]["highest"] == 8
    for name in ("trainer_kib", "worker_kib"):
        assert table[name]["last"] - table[name]["first"] < MOST_KIB, (name, table[name])
    assert table["worker_files"]["last"] <= table["worker_files"]["first"]
    assert table["trainer_files"]["last"] <= table["trainer_files"]["first"] + 16  # pipes of a batch on its way
