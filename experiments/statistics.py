"""Paired comparisons of arms that share their seeds. Pure functions of numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.05


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of the exact sign-flip test: all 2^n assignments, that of the data among them."""
    values = np.asarray(differences, dtype=np.float64)
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(values))))
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) - 1e-12))


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % t interval; with one value the interval is not known (nan)."""
    from scipy import stats

    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if len(data) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(1 - LEVEL / 2, len(data) - 1) * data.std(ddof=1) / math.sqrt(len(data)))
    return mean, mean - half, mean + half


def contrast(first: Mapping[int, float], second: Mapping[int, float]) -> dict[str, Any]:
    """Return `second` - `first` over the seeds that both have: mean, 95 % interval, p by sign flips and by t."""
    from scipy import stats

    seeds = sorted(first.keys() & second.keys())
    differences = [second[seed] - first[seed] for seed in seeds]
    mean, low, high = t_interval(differences)
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    t = 2 * float(stats.t.sf(abs(mean) / error, len(seeds) - 1)) if error > 1e-12 else math.nan
    found = {"seeds": seeds, "differences": differences, "mean": mean, "low": low, "high": high}
    return found | {"p": sign_flip(differences), "p_t": t}


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Return the p of a family of tests, adjusted by Holm's procedure."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in ps}
