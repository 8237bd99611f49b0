"""The specification of items, packing and rows: written to be read, and slow. NumPy and the standard library only.

1. `find_items`: which segments one epoch holds (originals, copies, or joined pairs), and how long each is.
2. `pack`: which segments share a row.
3. `make_row`: the five arrays of a row.

The C++ must agree bit for bit (tests/datasets/sft/test_reference.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meap_megatron.datasets.mask_stage import mark_changes
from meap_megatron.datasets.sft.answer_masks import masked_answers
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.data import Conversations
from meap_megatron.indexed.roles import ANSWER, PROMPT, UNMASKED
from meap_megatron.masking.corruption import KEPT

ORIGINAL, COPY, JOINED = 0, 1, 2
"""Kinds of segments. An item is `4 * conversation + kind` in a uint32."""

Positions = Callable[[int], NDArray[np.int64]]
"""From a conversation to the positions of its masked tokens."""

Ids = Callable[[int, int], NDArray[np.int64]]
"""From a conversation and its number of masked tokens to what takes their place (`masking.corruption.replacements`)."""


class Items(NamedTuple):
    """The segments of one epoch, in the order of the data, each original before its copy."""

    items: NDArray[np.uint32]
    """uint32[num_items], 4 * conversation + kind."""
    lengths: NDArray[np.int32]
    """int32[num_items], positions that each takes in a row."""
    num_too_long: int
    """Conversations that do not fit into a row."""
    num_untrained: int
    """Conversations without a segment that trains anything."""
    num_unjoined: int
    """Conversations of layout `concat` that are alone because the pair does not fit into a row."""


class PackedRow(NamedTuple):
    """One row of sequence_length positions."""

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    loss_mask: NDArray[np.float32]
    position_ids: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32]
    """int32[sequence_length + 1]: where segments start, then sequence_length as often as needed."""
    max_seqlen: int
    """Positions of the longest segment, the padding too."""
    num_segments: int
    """Segments without the padding."""


def find_items(
    data: Conversations, conversations: NDArray[np.int32], *, config: SFTConfig, sequence_length: int
) -> Items:
    """Return the segments of one epoch.

    A conversation of n tokens has n - 1 positions with a label. It is left out if they do not fit into a row, and a
    segment is left out if it trains nothing.

    Args:
        conversations: int32[n], those of the split.
        config: with the layout that this split has.
        sequence_length: positions of a row.
    """
    found: list[tuple[int, int]] = []
    num_too_long = num_untrained = num_unjoined = 0
    for conversation in conversations.tolist():
        roles = data.roles[conversation]
        length = len(roles) - 1
        if length > sequence_length:
            num_too_long += 1
            continue
        trains = bool((roles[1:] != PROMPT).any())
        has_copy = (
            length > 0
            and config.layout != "ntp"
            and bool(masked_answers(roles, min_answer_tokens=config.min_answer_tokens))
        )
        is_joined = has_copy and config.layout == "concat" and 2 * length + 1 <= sequence_length
        num_unjoined += has_copy and config.layout == "concat" and not is_joined
        before = len(found)
        if is_joined:
            found.append((4 * conversation + JOINED, 2 * length + 1))
        else:
            if trains and config.loss_on_original != "none":
                found.append((4 * conversation + ORIGINAL, length))
            if has_copy and config.layout == "separate":
                found.append((4 * conversation + COPY, length))
        num_untrained += len(found) == before
    return Items(
        np.array([item for item, _ in found], dtype=np.uint32),
        np.array([length for _, length in found], dtype=np.int32),
        num_too_long,
        num_untrained,
        num_unjoined,
    )


def pack(lengths: NDArray[np.int32], *, capacity: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Put segments into rows: best fit, longest first, over windows of consecutive segments.

    Within a window, segments are taken by descending length (equal lengths in their order). Each goes into the row
    with the least space that is enough for it; among equals, into the row whose space became what it is last; and
    into a new row if there is none. No row holds segments of two windows.

    Given lengths [3, 6, 4, 7, 2], capacity 10 and window 5: 7 opens row 0 and 6 row 1, 4 fills row 1, 3 fills row 0,
    and 2 opens row 2: rows [3, 0], [1, 2], [4].

    Args:
        lengths: int32[n], positions of each segment, in 1..capacity.
        capacity: positions of a row.
        window: segments that are packed together.

    Returns:
        offsets: int64[num_rows + 1], where each row starts in `members`.
        members: uint32[n], indices into lengths, row by row, in the order in which they were placed.
    """
    rows: list[list[int]] = []
    for begin in range(0, len(lengths), window):
        piece = lengths[begin : begin + window]
        by_space: dict[int, list[int]] = {}
        for member in np.argsort(-piece, kind="stable").tolist():
            length = int(piece[member])
            space = min((space for space, rows_ in by_space.items() if rows_ and space >= length), default=None)
            if space is None:
                row, space = len(rows), capacity
                rows.append([])
            else:
                row = by_space[space].pop()
            rows[row].append(begin + member)
            by_space.setdefault(space - length, []).append(row)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return offsets, np.array([member for row in rows for member in row], dtype=np.uint32)


def segment(
    data: Conversations, item: int, *, config: SFTConfig, positions: Positions, ids_of: Ids
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return one segment: inputs and labels int64[n], bool[n] whether the label is trained, and the input changed.

    Given ids [5, 6, 7, 8, 9, 2] with roles [0, 0, 1, 1, 1, 2], token 3 masked, and [MASK] = M, then

        original   inputs 5 6 7 8 9   labels 6 7 8 9 2   trained 0 1 1 1 1   changed 0 0 0 0 0
        copy       inputs 5 6 7 M 9   labels 6 7 8 9 2   trained 0 0 1 0 0   changed 0 0 0 1 0
    """
    conversation, kind = item // 4, item % 4
    ids, roles = data.ids[conversation].astype(np.int64), data.roles[conversation]
    nothing = np.zeros(len(ids), dtype=np.bool_)
    original = (ids, ids, (roles != PROMPT) & (config.loss_on_original != "none"), nothing)
    if kind == ORIGINAL:
        inputs, targets, trained, changed = original
    else:
        masked = positions(conversation)
        replaced = ids_of(conversation, masked.size)
        hidden, is_masked, is_changed = ids.copy(), nothing.copy(), nothing.copy()
        hidden[masked[replaced != KEPT]] = replaced[replaced != KEPT]
        is_masked[masked], is_changed[masked[replaced != KEPT]] = True, True
        trained_in_copy = {
            "masked": is_masked,
            "all_answer": (roles == ANSWER) | (roles == UNMASKED),
            "answer+end": roles != PROMPT,
        }
        copy = (hidden, ids, trained_in_copy[config.loss_on_copy], is_changed)
        inputs, targets, trained, changed = copy
        if kind == JOINED:
            halves = (original, copy) if config.concat_order == "orig_first" else (copy, original)
            inputs, targets, trained, changed = (np.concatenate(pair) for pair in zip(*halves, strict=True))
    return inputs[:-1], targets[1:], trained[1:], changed[:-1]


def make_row(
    data: Conversations,
    items: NDArray[np.uint32],
    *,
    config: SFTConfig,
    sequence_length: int,
    positions: Positions,
    ids_of: Ids | None = None,
    mark: bool = False,
) -> PackedRow:
    """Return the row that holds these items.

    Args:
        items: uint32[num_segments]; together they take at most sequence_length positions.
        sequence_length: positions of the row.
        positions: the masked tokens of a conversation, in the epoch of this row.
        ids_of: what takes their place; None for [MASK].
        mark: add what is changed to the loss mask (`mask_stage.mark_changes`).
    """
    ids_of = ids_of or (lambda conversation, count: np.full(count, config.mask_id, dtype=np.int64))
    tokens = np.full(sequence_length, config.pad_id, dtype=np.int64)
    labels = np.full(sequence_length, config.pad_id, dtype=np.int64)
    loss_mask = np.zeros(sequence_length, dtype=np.float32)
    bounds = [0]
    for item in items.tolist():
        inputs, targets, trained, changed = segment(data, item, config=config, positions=positions, ids_of=ids_of)
        here = slice(bounds[-1], bounds[-1] + len(inputs))
        tokens[here], labels[here] = inputs, targets
        weights = trained.astype(np.float32)
        loss_mask[here] = mark_changes(weights, np.flatnonzero(changed)) if mark else weights
        bounds.append(here.stop)
    if bounds[-1] < sequence_length:
        bounds.append(sequence_length)
    lengths = np.diff(bounds)
    position_ids = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    cu_seqlens = np.full(sequence_length + 1, sequence_length, dtype=np.int32)
    cu_seqlens[: len(bounds)] = bounds
    return PackedRow(tokens, labels, loss_mask, position_ids, cu_seqlens, int(lengths.max()), len(items))
