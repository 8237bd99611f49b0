"""The version, in a file that imports nothing of ours, so that setup.py can read it; and the commit."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__version__ = "0.3.0"


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from (with "-dirty" after local changes), or None."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return None  # installed: a repository around it would be the user's
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
