"""How long the answers are: counts per range of tokens, small enough for a sidecar."""

import numpy as np
from numpy.typing import NDArray

# 50 is a bound, so that the answers that get a masked copy by default (more than 50 tokens) can be read off.
BOUNDS = (5, 10, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 102400, 2**31 - 1)
"""Each range ends with its bound and starts after the one before."""


def count_lengths(lengths: NDArray[np.int64]) -> list[int]:
    """Return how many of the lengths, int64[n], fall into each range."""
    places = np.searchsorted(np.array(BOUNDS), lengths, side="left")
    return np.bincount(places, minlength=len(BOUNDS)).tolist()


def as_table(counts: list[int]) -> list[list[int]]:
    """Return [[upper bound, count], ...] up to the last range that is not empty."""
    used = max((number for number, count in enumerate(counts) if count), default=-1)
    return [[bound, count] for bound, count in zip(BOUNDS[: used + 1], counts, strict=False)]
