"""benchmarks/sft.py --quick runs, and its last line is the document that scripts read. No speed is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "sft.py"


def test_the_quick_run_ends_with_its_json_document():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["quick"] is True
    assert set(document["rows"]) == {
        "ours, packed, with copies",
        "ours, packed, no copies",
        "ours, one segment per row",
        "Megatron SFTDataset, conversation a line",
        "Megatron SFTDataset, packed lines",
        "official rows, batch of 8 padded",
    }
    for row in document["rows"].values():
        assert row["us"] > 0 and 0 < row["non_padding"] <= 1
    padding = {name: row["non_padding"] for name, row in document["rows"].items()}
    assert padding["ours, packed, with copies"] > 0.9 > padding["official rows, batch of 8 padded"]
    assert document["index"]["non_padding"] >= 0.98
    assert {"python", "torch", "numpy", "megatron-core", "cores"} <= set(document["environment"])
