"""Processors, memory, disk and cache folder, as far as this process may use them."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from meap_megatron.doctor.finding import BROKEN, DIFFERS, FASTER, NEEDED, OPTIONAL, Finding
from meap_megatron.formats import bytes_text
from meap_megatron.launch.runtime import cpus_available
from meap_megatron.memory import free_memory, group_folders

GIB = 2**30
LEAST_DISK = 1 * GIB
"""Below it not even `make demo` fits."""
LEAST_MEMORY = 2 * GIB
"""Of one training process with torch and Megatron imported, tiny model."""
LEAST_SHARED_MEMORY = 1 * GIB
"""docker gives 64 MiB, with which loader workers and NCCL end with a bus error."""


def findings(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Return the findings on this machine."""
    return [
        disk_finding(Path.cwd()),
        memory_finding(),
        processors_finding(environment),
        shared_memory_finding(Path("/dev/shm")),
        cache_finding(environment),
    ]


def disk_finding(folder: Path) -> Finding:
    """Return the free space of the file system in which a folder lies."""
    free = shutil.disk_usage(folder).free
    return Finding(
        name="free disk",
        group=NEEDED,
        state="ok" if free >= LEAST_DISK else BROKEN,
        detail=f"{bytes_text(free)} in {folder}",
        cost="" if free >= LEAST_DISK else "a run ends when it saves; a checkpoint takes 12 to 14 bytes per parameter",
        fix="" if free >= LEAST_DISK else f"du -xh -d1 {folder} | sort -h    then free space, or set save= elsewhere",
    )


def memory_finding(root: Path = Path("/")) -> Finding:
    """Return the memory that is free, within the limits of the control group."""
    free = free_memory(root)
    enough = free is not None and free >= LEAST_MEMORY
    return Finding(
        name="memory",
        group=NEEDED,
        state="ok" if enough else DIFFERS,
        detail="the system does not tell" if free is None else f"{bytes_text(free)} free",
        cost="" if enough else f"a training process takes about {bytes_text(LEAST_MEMORY)} before it has a model",
        fix="" if enough else "docker run --memory=..., sbatch --mem=..., or nproc=1",
    )


def processors_finding(environment: Mapping[str, str], root: Path = Path("/")) -> Finding:
    """Return the processors this process may use, and whether a quota or a variable makes threads useless."""
    allowed = cpus_available()
    quota = processor_quota(root)
    threads = environment.get("MEAP_THREADS") or environment.get("OMP_NUM_THREADS")
    notes = [f"{allowed} of {os.cpu_count()}"]
    if threads:
        notes.append(f"{'MEAP_THREADS' if environment.get('MEAP_THREADS') else 'OMP_NUM_THREADS'}={threads}")
    if quota is not None and quota < allowed:
        usable = max(1, int(quota))
        good = threads is not None and threads.isdecimal() and 0 < int(threads) <= usable
        return Finding(
            name="processors",
            group=OPTIONAL,
            state="ok" if good else DIFFERS,
            detail=", ".join([*notes, f"the control group allows the time of {quota:g}"]),
            cost="" if good else "torch starts a thread per processor, and the threads wait for each other",
            fix="" if good else f"export MEAP_THREADS={usable} OMP_NUM_THREADS={usable}",
        )
    return Finding(name="processors", group=OPTIONAL, detail=", ".join(notes))


def shared_memory_finding(folder: Path) -> Finding:
    """Return the size of the memory that processes share."""
    if not folder.is_dir():
        return Finding(name="shared memory", group=FASTER, state=DIFFERS, detail=f"no {folder}")
    total = shutil.disk_usage(folder).total
    enough = total >= LEAST_SHARED_MEMORY
    return Finding(
        name="shared memory",
        group=FASTER,
        state="ok" if enough else DIFFERS,
        detail=f"{bytes_text(total)} in {folder}",
        cost="" if enough else "loader workers and NCCL may end with a bus error",
        fix="" if enough else "docker run --ipc=host    (or --shm-size=16g)",
    )


def cache_finding(environment: Mapping[str, str]) -> Finding:
    """Return whether the folder in which Megatron's table of flags is kept can be written."""
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
    folder = Path(environment.get("MEAP_CACHE") or home) / "meap_megatron"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(
            name="cache folder",
            group=OPTIONAL,
            state=BROKEN,
            detail=f"{folder}: {error.strerror or error}",
            cost="every start reads Megatron's flags again, several seconds",
            fix="export MEAP_CACHE=FOLDER    (one that can be written)",
        )
    return Finding(name="cache folder", group=OPTIONAL, detail=str(folder))


def processor_quota(root: Path) -> float | None:
    """Return the processors' worth of time that the control group allows, or None without a limit."""
    for folder in group_folders(root, controller="cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                return int(quota) / int(period)
        except (OSError, ValueError, IndexError):
            pass
        try:
            microseconds = int((folder / "cpu.cfs_quota_us").read_text())
            if microseconds > 0:
                return microseconds / int((folder / "cpu.cfs_period_us").read_text())
        except (OSError, ValueError):
            pass
    return None
