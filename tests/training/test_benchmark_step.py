"""benchmarks/step.py --quick runs the trainer and its peer, and its last line is the document. No figure is judged."""

import json
import os
import subprocess
import sys

from tests.support.runs import ROOT


def test_the_quick_run_takes_turns_and_ends_with_its_document() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "step.py"),
            "--quick",
            "--only",
            "meap",
            "transformers",
            "products",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MEAP_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    (cell,) = document["cells"]
    assert (document["quick"], document["threads"], cell["turns"]) == (True, 1, 3)
    for kind in ("clock", "cpu"):
        assert all(cell[kind]["seconds"][name] > 0 for name in ("meap", "transformers", "products"))
    low, high = sorted(cell["cpu"]["transformers_over_meap"])[::2]
    assert 0 < low <= cell["cpu"]["transformers_over_meap"][0] <= high
    names = ("transformers_over_meap", "meap_share_of_rate", "transformers_share_of_rate")
    assert set(document["ratios"]) == {f"{name}_quick_32" for name in names}
