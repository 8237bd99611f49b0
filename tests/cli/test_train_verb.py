"""`meap train`: what it leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
from pathlib import Path
from meap_megatron.cli.train import with_temporary_log
from meap_megatron.errors import RunError, UserError

def start(folder):
    Path(folder, "rank-0.log").write_text("all that Megatron said")
    print(folder, flush=True)
    {end}

with_temporary_log(start)
"""


@pytest.mark.parametrize(
    ("end", "stays"),
    [
        ("return 0", False),
        ("return 2", False),
        ("raise SystemExit(143)", False),
        ("raise KeyboardInterrupt", False),
        ("raise UserError('it is refused')", False),
        ("return 1", True),
        ("raise RunError('it failed')", True),
    ],
)
def test_the_log_of_a_run_without_save_stays_only_where_an_error_names_it(end: str, stays: bool) -> None:
    command = [sys.executable, "-c", RUN.replace("{end}", end)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    folder = Path(done.stdout.strip())
    assert folder.name.startswith("meap-")
    assert (folder / "rank-0.log").exists() is stays
    if stays:
        (folder / "rank-0.log").unlink()
        folder.rmdir()
