"""Why a run ended, in words that name the place, the limit and the way out; Megatron's and torch's own name neither."""

import errno
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path

from meap_megatron.training.patches.schedule import OVERRIDE

FULL_DISK_BYTES = 2**16
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
LITTLE_SHARED_MEMORY = 2**24


def reason_of(error: BaseException, log: Path | None) -> str:
    """Return why a run failed: what is known of it, or the error's own words.

    Args:
        log: of this rank; its folder is on the disk that the run fills.
    """
    folder = log.parent if log is not None else Path.cwd()
    if folder.name == "logs":
        folder = folder.parent  # what is large is beside it
    numbers = numbers_of(error, folder)
    known = (
        open_files() if errno.EMFILE in numbers else None,
        shared_memory(error),
        f"disk quota exceeded in {folder}; make room or save elsewhere, then start the same command again"
        if errno.EDQUOT in numbers
        else None,
        file_size(folder) if errno.EFBIG in numbers else None,
        full_disk(folder),
        small_disk(folder) if is_unexplained(error) else None,
        other_schedule(error),
        other_shape(error),
        lost_rank(error),
    )
    return next(filter(None, known), None) or own_words(error)


def own_words(error: BaseException) -> str:
    """Return an error's kind and its first lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        return lines[-1]  # of another process, told here
    return f"{type(error).__name__}: {' '.join(lines[:3])}"


def numbers_of(error: BaseException, folder: Path) -> set[int]:
    """Return the error numbers of an error and of what caused it, from their text too.

    What writes checkpoints hands on that it failed, not why: then a file is written in the folder.
    """
    found: set[int] = set()
    if is_unexplained(error):
        found |= {number for number in [probed(folder)] if number}
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, OSError) and current.errno:
            found.add(current.errno)
        found |= {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(current))}
        found |= {number for number in NAMED if os.strerror(number) in str(current)}
        current = current.__cause__ or current.__context__
    return found


def probed(folder: Path) -> int | None:
    """Write a few megabytes and remove them; return the number of the error that this gives."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return error.errno
    return None


UNEXPLAINED = ("Worker failure", "enforce fail")
PROBE_BYTES = 2**22
NAMED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE)


def is_unexplained(error: BaseException) -> bool:
    """Tell whether an error says that a checkpoint was not written, and not why."""
    return any(text in str(error) for text in UNEXPLAINED)


def open_files() -> str:
    """Return what to say if this process may open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"too many open files: this process may have {soft:,} (hard limit {hard:,}); raise it with "
        f"`ulimit -n {max(4096, hard)}` before the run, or use fewer loader workers (num_workers)"
    )


def shared_memory(error: BaseException) -> str | None:
    """Return what to say if loader workers find no room for a batch in shared memory."""
    text = str(error)
    asked = "/torch_" in text or "Bus error" in text or "shared memory" in text or "DataLoader worker" in text
    if not asked or not SHARED_MEMORY.is_dir():
        return None
    usage = shutil.disk_usage(SHARED_MEMORY)
    if usage.free > LITTLE_SHARED_MEMORY and "shared memory" not in text and "Bus error" not in text:
        return None
    return (
        f"{SHARED_MEMORY} is full: {usage.free:,} of {usage.total:,} bytes are free, and loader workers hand over batches "
        "there; give it more (docker --shm-size=8g, or an emptyDir of medium Memory), or set num_workers=0"
    )


def file_size(folder: Path) -> str:
    """Return what to say if a file would be larger than this process may write."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = f"{limit:,} bytes" if limit != resource.RLIM_INFINITY else "what the file system takes"
    return f"a file in {folder} would be larger than the limit of {size}; raise it with `ulimit -f unlimited` before the run"


def other_schedule(error: BaseException) -> str | None:
    """Return what to say if a run continues with another learning-rate schedule than its checkpoint was made with."""
    if not (isinstance(error, AssertionError) and "OptimizerParamScheduler" in str(error)):
        return None
    return f"the learning-rate schedule is not the one of the checkpoint ({error}); {OVERRIDE}"


def other_shape(error: BaseException) -> str | None:
    """Return what to say if the tensors of a checkpoint have other shapes than the model."""
    text = str(error)
    found = re.search(r"Global shape mismatch for loaded \((.*?)\) and expected \((.*?)\) tensor for key (\S+)", text)
    if found is None:
        return None
    key = found.group(3)
    loaded, expected = (" x ".join(re.findall(r"\d+", sizes)) for sizes in found.groups()[:2])
    return (
        f"the checkpoint is of another model: {key} is {loaded} in it and {expected} in this recipe; take the model's "
        "settings from where the weights come from, for an import `extends: .../model.yaml`"
    )


def lost_rank(error: BaseException) -> str | None:
    """Return what to say if a rank fails because another one is gone; gloo's own words send people to the wrong rank."""
    text = str(error)
    if not ("gloo/transport" in text and ("Connection reset" in text or "Connection closed" in text)):
        return None
    return (
        "the connection to another rank was lost because that rank has ended; its log, or what follows, has the reason"
    )


def full_disk(folder: Path) -> str | None:
    """Return what to say if the disk of a run is full; Megatron's own report does not name the cause."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free > FULL_DISK_BYTES:
        return None
    return (
        f"No space left on device: {free:,} bytes are free at {folder}; make room, then start the same command again"
    )


def small_disk(folder: Path) -> str | None:
    """Return what to say if another checkpoint of this run would not fit; since the failure, others may have freed some."""
    try:
        sizes = [sum(file.stat().st_size for file in one.iterdir()) for one in folder.glob("iter_*")]
        free = shutil.disk_usage(folder).free
    except OSError:
        return None  # the run's own error is told, not this one
    if free >= max(sizes, default=0):
        return None
    return (
        f"a checkpoint could not be written: it takes {max(sizes):,} bytes, and {free:,} are free at {folder}; make room, "
        "then start the same command again (meap_keep_checkpoints=2 keeps the newest two)"
    )
