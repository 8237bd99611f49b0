"""The checks of correctness of `make gpu-check`, in tiny form on the card: what is a test rather than a measurement."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("whole_path", "parity", "packed", "resume", "portability", "answers")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu_check")
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--out", str(out), "--only", *NAMES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    return json.loads((out / "results.json").read_text())["checks"]


@pytest.mark.parametrize("name", NAMES)
def test_a_check_passes_on_the_card(found, name):
    check = found[name]
    broken = [figure for figure in check["figures"] if figure["verdict"] == "failed"]
    assert check["status"] in ("passed", "not applicable"), (check.get("reason"), broken)
