"""Run another program for its version, without waiting for one that hangs."""

import subprocess
from collections.abc import Sequence

TIMEOUT = 5.0  # seconds


def output(command: Sequence[str]) -> str | None:
    """Return what the program writes, or None if it fails, is not there or takes longer than `TIMEOUT`."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return (done.stdout or done.stderr).strip() if done.returncode == 0 else None


def first_line(command: Sequence[str]) -> str | None:
    """Return the first line of `output`, or None."""
    text = output(command)
    return None if text is None else text.partition("\n")[0].strip()
