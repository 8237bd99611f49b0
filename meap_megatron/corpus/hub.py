"""Data sets of the Hugging Face Hub as inputs, `hf:NAME[@REVISION][:CONFIG[:SPLIT]]`, streamed by the library datasets.

A name is one of the Hub, or a folder on this machine: what `save_to_disk` wrote, or files that `load_dataset` reads.
Without a network (HF_HUB_OFFLINE=1) the library's cache is read. A data set is cut where its own shards are.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError, first_line

PREFIX = "hf:"
KIND = "hub"
NAME = re.compile(r"hf:(?P<name>[^@:]+)(@(?P<revision>[^:]+))?(:(?P<config>[^:]*))?(:(?P<split>[^:]+))?")
SHARD_BYTES = 64 * 2**20
"""Taken as the size of a shard where the data set does not say how large it is."""


def look_up(pattern: str) -> tuple[int, int]:
    """Return the bytes of a data set (text, as it says; else a guess) and a number that changes with its content.

    Raises:
        UserError: the library is missing, there is no such data set, or it cannot be reached.
    """
    rows, size, version = _open(pattern)
    return size or rows.num_shards * SHARD_BYTES, version


def num_shards(pattern: str) -> int:
    """Return the number of shards, the units in which a data set is read."""
    return int(_open(pattern)[0].num_shards)


def rows_of(pattern: str, shard: int, *, version: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard.

    Args:
        pattern: the data set.
        shard: its number, from 0.
        version: as `look_up` returned it when the run began.

    Raises:
        UserError: it cannot be read, or has changed since.
    """
    rows, _, now = _open(pattern)
    if now != version:
        raise UserError(
            f"{pattern} changed since the run began", fix="start over with --overwrite, or name a revision: @REVISION"
        )
    try:
        yield from rows.shard(num_shards=rows.num_shards, index=shard)
    except Exception as error:
        raise _refusal(pattern, error) from error


@functools.lru_cache(maxsize=16)
def _open(pattern: str) -> tuple[Any, int, int]:
    """Return the rows as the library's IterableDataset, their bytes (0: not known), and the version."""
    named = NAME.fullmatch(pattern)
    if named is None:
        raise UserError(
            f"input {pattern!r} is not of the form hf:NAME[@REVISION][:CONFIG[:SPLIT]], such as hf:allenai/c4:en"
        )
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{pattern}: data sets of the Hub need the library datasets", fix="pip install 'meap-megatron[hub]'"
        ) from None
    name, config, split = named["name"], named["config"] or None, named["split"] or "train"
    folder = Path(name)
    try:
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(name)
            if isinstance(saved, datasets.DatasetDict):
                saved = saved[split]
            return saved.to_iterable_dataset(), int(saved.info.dataset_size or 0), int(saved._fingerprint[:12], 16)
        builder = datasets.load_dataset_builder(name, config, revision=named["revision"])
        rows = datasets.load_dataset(name, config, split=split, streaming=True, revision=named["revision"])
        parts = builder.info.splits or {}
        size = parts[split].num_bytes if split in parts else 0
        return rows, int(size), int(re.sub(r"[^0-9a-f]", "", builder.hash or "0")[:12], 16)
    except Exception as error:
        raise _refusal(pattern, error) from error


def _refusal(pattern: str, error: Exception) -> UserError:
    """Return what the library says, in one line, and what helps without a network."""
    offline = (
        "" if Path(pattern.removeprefix(PREFIX)).exists() else "; without a network, data sets are read from its cache"
    )
    return UserError(f"{pattern} cannot be read: {first_line(error)} ({type(error).__name__}){offline}")
