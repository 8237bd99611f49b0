"""The index inside a checkpoint (`.metadata`): where in which file each tensor lies. Reading it imports torch.

The index is a pickle, as torch.distributed.checkpoint writes it; it is read by an unpickler that makes descriptions of
tensors and plain values only, so looking at a checkpoint runs no code of it.
"""

from pathlib import Path
from typing import Any

INDEX = ".metadata"
COMMON = "common.pt"
"""Holds what is not sharded in checkpoints of Megatron before 0.19."""


def has_index(checkpoint: Path) -> bool:
    """Tell whether a checkpoint is of a distributed format, which has an index when it is whole."""
    return (checkpoint / INDEX).exists() or (checkpoint / "metadata.json").exists() or any(checkpoint.glob("*.distcp"))


def needed_bytes(checkpoint: Path) -> dict[str, int]:
    """Return the least size in bytes that each file of tensors must have, by its name.

    Raises:
        ValueError: the index cannot be read; says why.
    """
    from meap_megatron.checkpoint.convert.pickles import read_index

    try:
        needed = extents(read_index(checkpoint / INDEX)[0])
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not needed:
        raise ValueError("it names no tensor")
    return needed


def extents(index: Any) -> dict[str, int]:
    """Return file -> the least size in bytes that a `Metadata` of torch.distributed.checkpoint needs it to have."""
    needed: dict[str, int] = {}
    for place in index.storage_data.values():
        needed[place.relative_path] = max(needed.get(place.relative_path, 0), place.offset + place.length)
    return needed
