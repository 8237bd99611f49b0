"""How the attention of a text's end is shared between its regions. Pure functions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.evaluation.attention.region_items import REGIONS, Item
from meap_megatron.evaluation.prompt_length import with_offsets

VARIANTS = ("sum", "mean_per_token", "query_tokens", "last_layer", "without_first")
"""sum: the default. mean_per_token: region means, made to sum to 1. query_tokens: the tokens of the question ask instead
of EOS. last_layer: of the last layer only. without_first: without the token at position 0 (BOS, where there is one)."""


def encode(
    item: Item, tokenizer: Any, *, bos_id: int | None, eos_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids and the region of every token: int64[T] each, regions as indices into `REGIONS`.

    A token belongs to the region that holds its first character; BOS to the first region.

    Raises:
        UserError: the tokenizer does not know the characters of its tokens, or a region has no token.
    """
    text, ends = item.joined()
    encoded = with_offsets(tokenizer, text, told="tokens are told apart")
    starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
    regions = np.searchsorted(np.array(ends), starts, side="right")
    head = [] if bos_id is None else [bos_id]
    ids = np.array([*head, *encoded["input_ids"], eos_id], dtype=np.int64)
    labels = np.concatenate([np.zeros(len(head), np.int64), regions, [REGIONS.index("eos")]])
    if missing := set(range(len(REGIONS))) - set(labels.tolist()):
        raise UserError(
            f"item {item.name}: no token begins in region '{REGIONS[min(missing)]}'", fix="use a finer tokenizer"
        )
    return ids, labels


def query_sets(regions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return float32[2, T]: the final EOS, and the mean over the tokens of the question; what `shares` reads."""
    sets = np.zeros((2, len(regions)), dtype=np.float32)
    sets[0, -1] = 1
    inside = regions == REGIONS.index("query")
    sets[1, inside] = 1 / inside.sum()
    return sets


def shares(received: NDArray[np.floating], regions: NDArray[np.int64]) -> dict[str, list[float]]:
    """Return variant -> share of each region; the shares of a variant sum to 1.

    Given regions 0 0 0 1 2 3 4 and uniform attention of EOS; then sum 3/7 and four times 1/7, mean_per_token five times
    1/5, without_first 2/6 and four times 1/6.

    Args:
        received: float[2, L, T], attention from the sets of `query_sets`; means over heads.
        regions: int64[T].
    """
    from_eos, from_query = received.astype(np.float64)
    default = from_eos.mean(axis=0)
    without = np.concatenate([[0.0], default[1:]])
    counts = np.bincount(regions, minlength=len(REGIONS))
    summed = {
        "sum": _by_region(default, regions),
        "mean_per_token": _by_region(default, regions) / counts,
        "query_tokens": _by_region(from_query.mean(axis=0), regions),
        "last_layer": _by_region(from_eos[-1], regions),
        "without_first": _by_region(without, regions),
    }
    return {name: (values / values.sum()).tolist() for name, values in summed.items()}


def _by_region(attention: NDArray[np.float64], regions: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(regions, weights=attention, minlength=len(REGIONS)).astype(np.float64)
