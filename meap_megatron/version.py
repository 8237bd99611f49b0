"""The version, in a file that imports nothing of ours, so that setup.py can read it; and the commit."""

import subprocess
from pathlib import Path

__version__ = "0.2.0"


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from (with "-dirty" after local changes), or None."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
