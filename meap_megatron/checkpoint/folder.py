"""The names in a folder of checkpoints, as Megatron writes them: iter_NNNNNNN and the tracker that names the newest."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.atomic import replace_text, sync
from meap_megatron.errors import UserError

TRACKER = "latest_checkpointed_iteration.txt"
RELEASE = "release"
"""What the tracker says, and the folder is called, for weights that belong to no step of a run."""


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """What the tracker file says."""

    iteration: int | None
    """None: there is no such file, or it names no step."""
    release: bool
    text: str | None
    """As in the file; None: there is no file."""


def read_tracker(folder: Path) -> Tracker:
    """Read the tracker of a folder.

    Megatron rewrites the file in place, so a killed run may leave it empty; Megatron itself then ends without an error.
    """
    try:
        text = (folder / TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return Tracker(iteration=None, release=False, text=None)
    except OSError as error:
        raise UserError(f"cannot read {folder / TRACKER}: {error.strerror}") from None
    iteration = int(text) if re.fullmatch("[0-9]{1,18}", text) else None
    return Tracker(iteration=iteration, release=text == RELEASE, text=text)


def write_tracker(folder: Path, iteration: int) -> None:
    """Let the tracker name a step, atomically."""
    replace_text(folder / TRACKER, str(iteration))


def iteration_folder(folder: Path, iteration: int) -> Path:
    """Return the path of one step's checkpoint."""
    return folder / f"iter_{iteration:07d}"


def iterations(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint folder, whole or not, in ascending order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot read the checkpoint folder {folder}: {error.strerror}") from None
    found = {int(name[5:]) for name in names if re.fullmatch("iter_[0-9]{7,18}", name)}
    return sorted(n for n in found if iteration_folder(folder, n).is_dir())


def file_names(checkpoint: Path) -> list[str]:
    """Return the path of every file below a checkpoint folder, inside it, sorted; no file is asked for its size."""
    found = [Path(folder, name) for folder, _, names in os.walk(checkpoint) for name in names]
    return sorted(path.relative_to(checkpoint).as_posix() for path in found)


def file_sizes(checkpoint: Path) -> dict[str, int]:
    """Return the size in bytes of every file below a checkpoint folder, by its path inside it.

    A folder that another process is renaming at this moment counts as one without files.
    """
    sizes = {}
    for name in file_names(checkpoint):
        with contextlib.suppress(FileNotFoundError):
            sizes[name] = (checkpoint / name).stat().st_size
    return sizes


def set_aside(checkpoint: Path, reason: str) -> Path:
    """Rename a checkpoint folder so that nothing takes it for one, and return its new path.

    Args:
        checkpoint: .../iter_0000100
        reason: "damaged" makes .../damaged-iter_0000100, or damaged-2-iter_0000100 if that is taken.
    """
    number = 1
    while True:
        label = reason if number == 1 else f"{reason}-{number}"
        target = checkpoint.with_name(f"{label}-{checkpoint.name}")
        if not target.exists():
            break
        number += 1
    checkpoint.rename(target)
    sync(checkpoint.parent)
    return target
