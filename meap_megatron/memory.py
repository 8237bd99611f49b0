"""How much memory this process may still take: what the machine has free, within the limits of its control groups."""

import contextlib
from pathlib import Path

LIMITS = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
)
"""Of control groups, version 2 and version 1: limit, what is taken, and the part of that which is a cache of files."""


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that are free, or None where the system does not tell.

    A batch system gives a job a part of the machine: MemAvailable is of all of it, the control group of the job alone.
    """
    found = []
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = (root / "proc/meminfo").read_text().split("\n")
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    for folder in group_folders(root, controller="memory"):
        for limit, taken, cached in LIMITS:
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                free = int((folder / limit).read_text()) - int((folder / taken).read_text())
                for line in (folder / "memory.stat").read_text().split("\n"):
                    name, _, value = line.partition(" ")
                    free += int(value) if name in cached else 0
                found.append(max(0, free))
    return min(found, default=None)


def group_folders(root: Path, *, controller: str) -> list[Path]:
    """Return the folders of this process's control group and of those around it, version 2 and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    base = root / "sys/fs/cgroup"
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        top = base if not controllers else base / controllers
        if controllers and controller not in controllers.split(","):
            continue
        inner = top / path.lstrip("/")
        found += [inner, *(parent for parent in inner.parents if parent == top or top in parent.parents)]
    return [*found, base, base / controller]
