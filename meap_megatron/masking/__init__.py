"""Which input positions of a sample are masked, as a pure function of (seed, dataset, sample index).

No state and no global generator: the same sample gets the same mask for any read order, number of workers, parallel
layout and point of resumption. `reference.py` and `strategies/` are the specification, written in NumPy; the functions here
compute the same positions bit for bit in C++. This package imports neither torch nor Megatron.
"""

import numpy as np
from numpy.typing import NDArray

from meap_megatron import _C
from meap_megatron.masking.arguments import num_masked, prepare
from meap_megatron.masking.ratio import check_ratio
from meap_megatron.masking.strategies import STRATEGIES

__all__ = ["STRATEGIES", "check_ratio", "mask_positions", "num_masked"]


def mask_positions(
    *,
    seed: int,
    dataset_key: int,
    sample_index: int,
    length: int,
    ratio: float,
    strategy: str = "random",
    span_length: int = 1,
    step: int | None = None,
    eligible: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the masked input positions of one sample: int64[k], ascending.

    Without `eligible`, positions 0..length-2 may be masked (the last input position never is, as in the official
    code) and k is `num_masked(length=length, ratio=ratio)`. With E eligible positions, k is the same share of them:
    `min(E, num_masked(length=E + 1, ratio=ratio))`.

    Args:
        seed: of the run, in [0, 2**64).
        dataset_key: of the dataset's content, in [0, 2**64).
        sample_index: of the sample in its dataset, from 0.
        length: input positions of the sample, at least 2.
        ratio: share of the positions to mask, in [0, 1).
        strategy: `random`: uniform over all sets of k positions. `span`: ceil(k / span_length) runs of span_length
            positions, one of them shorter where k is not a multiple; never overlapping, uniform over placements; with
            `eligible`, runs of consecutive eligible positions. `official51`: the set of the official code at this
            step, `random.seed(50 + step % 51); random.sample(range(0, length - 1), k)`, whatever the sample.
        span_length: positions per run, for `span`.
        step: optimizer step from 0, for `official51`.
        eligible: int64[E], ascending, positions which may be masked; None for 0..length-2.

    Raises:
        UserError: an argument breaks its rule; the message names it.
    """
    draw = prepare(
        seed=seed,
        dataset_key=dataset_key,
        sample_index=sample_index,
        length=length,
        ratio=ratio,
        strategy=strategy,
        span_length=span_length,
        step=step,
        eligible=eligible,
    )
    chosen = _C.choose_positions(
        strategy, seed, dataset_key, sample_index, draw.num_eligible, draw.count, span_length, draw.step
    )
    return chosen if eligible is None else eligible[chosen]
