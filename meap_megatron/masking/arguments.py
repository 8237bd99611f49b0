"""The rules that arguments of the masking functions keep, and the one floating-point operation: the masked count."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.masking.ratio import check_ratio
from meap_megatron.masking.strategies import Draw, strategy_named

MAX_LENGTH = 2**31 - 1  # input positions; bounded draws use 32-bit words
_UNSIGNED_64 = 2**64
_SIGNED_64 = 2**63


def num_masked(*, length: int, ratio: float) -> int:
    """Return how many of `length` input positions are masked: `max(1, floor(length * ratio))`, or 0 if ratio is 0.

    The product is an IEEE double, as in the official code (`max(1, int(block_size * ratio))`): 614 for 4096 and 0.15.

    Raises:
        UserError: length below 2, or ratio outside [0, 1).
    """
    _check_length_and_ratio(length, ratio)
    return _count(length, ratio)


def prepare(
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
) -> Draw:
    """Check the arguments of `mask_positions` and return what is to be chosen.

    Raises:
        UserError: an argument breaks its rule; the message names the argument, its value and the rule.
    """
    _check_length_and_ratio(length, ratio)
    _check_seed(seed, dataset_key)
    if not 0 <= sample_index < _SIGNED_64:
        raise UserError(f"sample_index is {sample_index}; it must be in [0, 2**63)")
    num_eligible = length - 1 if eligible is None else _check_eligible(eligible, length)
    chosen = strategy_named(strategy)
    check_span_length(span_length)
    chosen.check_sample(span_length=span_length, num_eligible=num_eligible, step=step, eligible=eligible)
    return Draw(
        seed=seed,
        dataset_key=dataset_key,
        sample_index=sample_index,
        num_eligible=num_eligible,
        # One more than may be masked, so that without protection both branches give the same count.
        count=min(_count(num_eligible + 1, ratio), num_eligible),
        span_length=span_length,
        step=step or 0,
    )


def check_span_length(span_length: int) -> None:
    """Raise UserError unless span_length is at least 1."""
    if span_length < 1:
        raise UserError(f"span_length is {span_length}; it must be at least 1")


def _check_length_and_ratio(length: int, ratio: float) -> None:
    if not 2 <= length <= MAX_LENGTH:
        raise UserError(f"length is {length}; it must be in 2..{MAX_LENGTH}: the last position is never masked")
    check_ratio(ratio)


def _check_seed(seed: int, dataset_key: int) -> None:
    if not 0 <= seed < _UNSIGNED_64:
        raise UserError(f"seed is {seed}; it must be in [0, 2**64)")
    if not 0 <= dataset_key < _UNSIGNED_64:
        raise UserError(f"dataset_key is {dataset_key}; it must be in [0, 2**64)")


def _check_eligible(eligible: NDArray[np.int64] | Sequence[int], length: int) -> int:
    positions = np.asarray(eligible)
    if positions.size == 0:
        return 0
    if positions.ndim != 1 or positions.dtype != np.int64:
        raise UserError(f"eligible is {positions.dtype}{list(positions.shape)}; it must be int64[num_eligible]")
    if not (positions[1:] > positions[:-1]).all():
        raise UserError("eligible is not sorted; positions must be strictly ascending")
    if positions[0] < 0 or positions[-1] >= length:
        raise UserError(f"eligible spans {positions[0]}..{positions[-1]}; positions must be in 0..{length - 1}")
    return int(positions.size)


def _count(length: int, ratio: float) -> int:
    return max(1, math.floor(length * ratio)) if ratio else 0
