"""A folder of named arrays and one summary, written once: an entry exists when its summary does, complete."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.atomic import disk_errors, replace_file, replace_text


def load(folder: Path, base: str) -> tuple[dict[str, NDArray], dict[str, Any]] | None:
    """Return the arrays of an entry, memory-mapped, and its summary; None if there is no sound entry."""
    try:
        summary = json.loads((folder / f"{base}-summary.json").read_text(encoding="utf-8"))
        arrays = {name: _open(folder / f"{base}-{name}.npy", shape) for name, shape in summary.pop("shapes").items()}
    except (OSError, ValueError, KeyError):
        return None  # not there, or damaged: it is built again
    return arrays, summary


def store(folder: Path, base: str, arrays: dict[str, NDArray], summary: dict[str, Any], *, description: str) -> None:
    """Write an entry; each file appears complete, the summary last.

    Args:
        folder: made if it is not there.
        base: start of the names of the entry's files.
        arrays: name -> array.
        summary: what JSON can hold; the arrays' shapes are added.
        description: what the entry was made of, for people.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            with replace_file(folder / f"{base}-{name}.npy", shared=True) as stream:
                np.save(stream, array, allow_pickle=False)
    replace_text(folder / f"{base}-description.txt", description + "\n")
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    replace_text(folder / f"{base}-summary.json", json.dumps(summary | {"shapes": shapes}, indent=2) + "\n")


def _open(path: Path, shape: list[int]) -> NDArray:
    # NumPy cannot map an empty array; and slices of a plain view cost a third of those of a memmap object.
    array = np.asarray(np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False))
    if list(array.shape) != shape:
        raise ValueError(f"{path} has shape {array.shape}, its summary says {shape}")
    return array
