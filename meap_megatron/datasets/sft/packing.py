"""From conversations to the rows of all epochs: which segments are in which row."""

import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from meap_megatron import _C
from meap_megatron.datasets.sft.answer_masks import official_positions
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.data import SFTData
from meap_megatron.datasets.sft.disk_array import DiskArray
from meap_megatron.datasets.sft.reference import Items
from meap_megatron.errors import UserError

VERSION = 1
"""Of the packing; part of the cache key, so that a change of the algorithm never reads old indices."""

BLOCK = 2**20
"""Conversations, segments or rows that are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class RowIndex:
    """The rows of all epochs, one epoch after the other."""

    items: NDArray[np.uint32]
    """uint32[num_items of all epochs], 4 * conversation + kind, row by row as packed."""
    offsets: NDArray[np.int64]
    """int64[num_rows + 1], where each packed row starts in `items`."""
    order: NDArray[np.int64]
    """int64[num_rows], the packed row that is read as row i; epochs do not mix."""
    epochs: NDArray[np.int64]
    """int64[num_epochs + 1], first row of each epoch, and the end."""
    mask_offsets: NDArray[np.int64]
    """int64[conversations of the split + 1] with sampler `official`, else empty."""
    mask_positions: NDArray[np.int32]
    """The official masked positions, conversation by conversation; else empty."""

    def __len__(self) -> int:
        return len(self.order)

    def row(self, index: int) -> tuple[NDArray[np.uint32], int]:
        """Return the items of row `index`, uint32[num_segments], and its epoch."""
        packed = int(self.order[index])
        epoch = bisect_right(self.epochs, index) - 1
        return self.items[int(self.offsets[packed]) : int(self.offsets[packed + 1])], epoch


def effective(config: SFTConfig, *, is_train: bool) -> SFTConfig:
    """Return the configuration of one split: validation reads originals only, unless it is asked to mask."""
    if is_train or config.mask_validation:
        return config
    return replace(config, layout="ntp", loss_on_original="answer+end")


def packing_key(config: SFTConfig) -> str:
    """Return the settings that decide the index, as text for the cache key; `config` is that of the split."""
    names = ["layout", "min_answer_tokens", "loss_on_original", "over_long", "pack", "pack_window", "shuffle"]
    if config.sampler == "official":
        names += ["sampler", "seed", "ratio"]
    return ",".join([f"v{VERSION}", *(f"{name}={getattr(config, name)}" for name in names)])


def find_items(
    data: SFTData,
    conversations: NDArray[np.int32],
    *,
    config: SFTConfig,
    sequence_length: int,
    folder: Path | None = None,
) -> Items:
    """Return the segments of one epoch, in arrays on the disk; see `reference.find_items`.

    Args:
        conversations: int32[n], those of the split.
        config: that of the split (`effective`).
        sequence_length: positions of a row.
        folder: where the arrays are; None for the system's folder of temporary files.
    """
    items, lengths = DiskArray(folder, np.uint32), DiskArray(folder, np.int32)
    counts = np.zeros(3, np.int64)
    for start in range(0, len(conversations), BLOCK):
        found = data.native.find_items(
            conversations[start : start + BLOCK],
            has_copies=config.layout != "ntp",
            is_joined=config.layout == "concat",
            train_original=config.loss_on_original != "none",
            min_answer_tokens=config.min_answer_tokens,
            sequence_length=sequence_length,
        )
        items.append(found[0])
        lengths.append(found[1])
        counts += found[2:]
    return Items(items.array(), lengths.array(), *counts.tolist())


def pack_epoch(
    found: Items,
    *,
    config: SFTConfig,
    sequence_length: int,
    generator: np.random.RandomState,
    items: DiskArray,
    offsets: DiskArray,
    order: DiskArray,
) -> int:
    """Add the rows of one epoch: a permutation of all items, packed window by window; return how many rows.

    Args:
        config: that of the split.
        sequence_length: positions of a row.
        generator: of this epoch alone.
        items: uint32, grows by the items in packed order.
        offsets: int64, grows by the end of each row in `items`.
        order: int64, grows by the rows, numbered from those of earlier epochs on, in the order in which they are read.
    """
    shuffled, first_row, num_rows = _numbers(len(found.items), np.uint32, items.folder), order.size, 0
    if config.shuffle:
        generator.shuffle(shuffled)
    # Whole windows: packing a block is then the same as packing everything at once.
    block = config.pack_window * max(1, BLOCK // config.pack_window)
    for start in range(0, len(shuffled), block):
        piece = shuffled[start : start + block]
        if config.pack:
            ends, members = _C.sft_pack(found.lengths[piece], sequence_length, config.pack_window)
            piece = piece[members]
        else:
            ends = np.arange(len(piece) + 1, dtype=np.int64)
        offsets.append(ends[1:] + items.size)
        items.append(found.items[piece])
        num_rows += len(ends) - 1
    rows = _numbers(num_rows, np.int64, items.folder)
    if config.shuffle:
        # Packing leaves the longest segments of a window in its first rows.
        generator.shuffle(rows)
    for start in range(0, num_rows, BLOCK):
        order.append(rows[start : start + BLOCK] + first_row)
    return num_rows


def _numbers(size: int, dtype: DTypeLike, folder: Path | None) -> NDArray:
    """Return 0, 1, ..., size - 1 in an array on the disk."""
    column = DiskArray(folder, dtype)
    for start in range(0, size, BLOCK):
        column.append(np.arange(start, min(size, start + BLOCK), dtype=dtype))
    return column.array()


def build_index(
    data: SFTData,
    conversations: NDArray[np.int32],
    *,
    config: SFTConfig,
    sequence_length: int,
    num_rows: int | None,
    order_seed: int,
    folder: Path | None = None,
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Return the arrays of a `RowIndex` and a summary of what was packed.

    Epochs are added until there are `num_rows` rows; each is a permutation of all items, packed by itself, so that
    the rows of an epoch do not depend on how many epochs follow. The arrays are mapped files without a name, so that
    memory does not grow with the conversations (but for the positions of sampler `official`).

    Args:
        conversations: int32[n], those of the split, ascending without gaps.
        config: that of the split (`effective`).
        sequence_length: positions of a row.
        num_rows: at least this many; None for one epoch.
        folder: where the arrays are; None for the system's folder of temporary files.

    Raises:
        UserError: rows are asked for and no conversation trains anything.
        RunError: the disk is full.
    """
    began = time.perf_counter()
    found = find_items(data, conversations, config=config, sequence_length=sequence_length, folder=folder)
    if len(found.items) == 0 and num_rows:
        raise UserError(
            f"{num_rows:,} rows are asked for, but none of the {len(conversations):,} conversations of this split of "
            f"{data.prefix} trains anything ({found.num_too_long:,} do not fit into a row of {sequence_length:,}, "
            f"{found.num_untrained:,} have nothing to train)",
            fix="change the split or the data",
        )
    items, offsets, order = (DiskArray(folder, dtype) for dtype in (np.uint32, np.int64, np.int64))
    epochs = [0]
    offsets.append(np.zeros(1, np.int64))
    while len(epochs) == 1 or (num_rows is not None and epochs[-1] < num_rows):
        generator = np.random.RandomState([order_seed % 2**32, order_seed // 2**32 % 2**32, len(epochs) - 1])
        rows = pack_epoch(
            found,
            config=config,
            sequence_length=sequence_length,
            generator=generator,
            items=items,
            offsets=offsets,
            order=order,
        )
        epochs.append(epochs[-1] + rows)
    mask_offsets, mask_positions = np.zeros(0, np.int64), np.zeros(0, np.int32)
    if config.sampler == "official" and config.layout != "ntp":
        mask_offsets, mask_positions = official_positions((data.roles[i] for i in conversations.tolist()), config)
    arrays: dict[str, NDArray] = {
        "items": items.array(),
        "offsets": offsets.array(),
        "order": order.array(),
        "epochs": np.array(epochs, dtype=np.int64),
        "mask_offsets": mask_offsets,
        "mask_positions": mask_positions,
    }
    blocks = (found.items[start : start + BLOCK] for start in range(0, len(found.items), BLOCK))
    kinds = sum((np.bincount(block % 4, minlength=3) for block in blocks), np.zeros(3, np.int64)).tolist()
    used = int(found.lengths.sum(dtype=np.int64)) * (len(epochs) - 1)
    summary = {
        "num_conversations": len(conversations),
        "num_originals": kinds[0],
        "num_copies": kinds[1],
        "num_joined": kinds[2],
        "num_too_long": found.num_too_long,
        "num_untrained": found.num_untrained,
        "num_unjoined": found.num_unjoined,
        "num_epochs": len(epochs) - 1,
        "num_rows": epochs[-1],
        "rows_per_epoch": epochs[1],
        "non_padding": used / max(1, epochs[-1] * sequence_length),
        "seconds": round(time.perf_counter() - began, 3),
    }
    return arrays, summary
