"""From conversations to the rows of all epochs: which segments stand in which row."""

import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron import _C
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.data import SFTData
from meap_megatron.datasets.sft.masks import official_positions
from meap_megatron.datasets.sft.reference import Items
from meap_megatron.errors import UserError

VERSION = 1
"""Of the packing; part of the cache key, so that a change of the algorithm never reads old indices."""


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


def find_items(data: SFTData, conversations: NDArray[np.int32], *, config: SFTConfig, sequence_length: int) -> Items:
    """Return the segments of one epoch; see `reference.find_items`."""
    return Items(
        *data.native.find_items(
            conversations,
            has_copies=config.layout != "ntp",
            is_joined=config.layout == "concat",
            train_original=config.loss_on_original != "none",
            min_answer_tokens=config.min_answer_tokens,
            sequence_length=sequence_length,
        )
    )


def build_index(
    data: SFTData,
    conversations: NDArray[np.int32],
    *,
    config: SFTConfig,
    sequence_length: int,
    num_rows: int | None,
    order_seed: int,
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Return the arrays of a `RowIndex` and a summary of what was packed.

    Epochs are added until there are `num_rows` rows; each is a permutation of all items, packed by itself, so that
    the rows of an epoch do not depend on how many epochs follow.

    Args:
        data: all conversations of the prefix.
        conversations: int32[n], those of the split, ascending without gaps.
        config: that of the split (`effective`).
        sequence_length: positions of a row.
        num_rows: at least this many; None for one epoch.
        order_seed: orders the data.

    Raises:
        UserError: rows are asked for and no conversation trains anything.
    """
    began = time.perf_counter()
    found = find_items(data, conversations, config=config, sequence_length=sequence_length)
    if len(found.items) == 0 and num_rows:
        raise UserError(
            f"{num_rows:,} rows are asked for, but none of the {len(conversations):,} conversations of this split of "
            f"{data.prefix} trains anything ({found.num_too_long:,} do not fit into a row of {sequence_length:,}, "
            f"{found.num_untrained:,} have nothing to train); change the split or the data"
        )
    items, offsets, order, epochs = [], [np.zeros(1, np.int64)], [], [0]
    while len(epochs) == 1 or (num_rows is not None and epochs[-1] < num_rows):
        epoch = len(epochs) - 1
        generator = np.random.RandomState([order_seed % 2**32, order_seed // 2**32 % 2**32, epoch])
        shuffled = np.arange(len(found.items), dtype=np.uint32)
        if config.shuffle:
            generator.shuffle(shuffled)
        if config.pack:
            ends, members = _C.sft_pack(found.lengths[shuffled], sequence_length, config.pack_window)
            shuffled = shuffled[members]
        else:
            ends = np.arange(len(shuffled) + 1, dtype=np.int64)
        rows = np.arange(len(ends) - 1, dtype=np.int64)
        if config.shuffle:
            # Packing leaves the longest segments of a window in its first rows.
            generator.shuffle(rows)
        items.append(found.items[shuffled])
        offsets.append(ends[1:] + offsets[-1][-1])
        order.append(rows + epochs[-1])
        epochs.append(epochs[-1] + len(rows))
    mask_offsets, mask_positions = np.zeros(0, np.int64), np.zeros(0, np.int32)
    if config.sampler == "official" and config.layout != "ntp":
        mask_offsets, mask_positions = official_positions(
            (data.roles[i] for i in conversations.tolist()),
            min_answer_tokens=config.min_answer_tokens,
            ratio=config.ratio,
            seed=config.seed,
        )
    arrays: dict[str, NDArray] = {
        "items": np.concatenate(items),
        "offsets": np.concatenate(offsets),
        "order": np.concatenate(order),
        "epochs": np.array(epochs, dtype=np.int64),
        "mask_offsets": mask_offsets,
        "mask_positions": mask_positions,
    }
    kinds = np.bincount(found.items % 4, minlength=3).tolist()
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
