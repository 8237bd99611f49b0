"""Means with their uncertainty, and comparisons of two models on the same questions. Pure functions of sample records."""

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
MOST_PERMUTED = 100
"""Differing questions up to which signs are permuted: slower than Student's test, which says the same of more."""


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a mean of at least two values.

    Wilson's of shares of right answers, percentiles of 2,000 bootstrap resamples of other values.
    """
    from scipy import stats

    if all(value in (0, 1) for value in values):
        found = stats.binomtest(int(sum(values)), len(values)).proportion_ci(method="wilson")
    else:
        found = stats.bootstrap(
            (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=seed, batch=200
        ).confidence_interval
    return float(found.low), float(found.high)


def compare(before: Sequence[float], after: Sequence[float], *, paired: bool = True) -> dict[str, float | None]:
    """Return how much `after` is above `before` in the mean: difference, low, high (95 %) and p, two-sided.

    On the same questions: of right and wrong answers McNemar's exact test and the interval that belongs to it; of other
    scores Student's interval of the differences, and the paired permutation test, from 100 differing questions on
    Student's. On other questions (not `paired`): Welch's test. None where there is too little to say.
    """
    from scipy import stats

    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    found: dict[str, float | None] = {"difference": float(second.mean() - first.mean())}
    found |= {"low": None, "high": None, "p": None}
    test = None
    if not paired:
        if len(first) > 1 < len(second) and (np.ptp(first) or np.ptp(second)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # one model has all answers right, or none
                test = stats.ttest_ind(second, first, equal_var=False)
            found["p"] = float(test.pvalue)
    elif not len(moved := (second - first)[~np.isclose(first, second)]):
        found["p"] = 1.0
    elif np.allclose(abs(moved), abs(moved[0])):
        exact = stats.binomtest(int((moved > 0).sum()), len(moved))
        scale = float(abs(moved[0])) * len(moved) / len(first)
        low, high = (scale * (2 * share - 1) for share in exact.proportion_ci(0.95, method="exact"))
        return {**found, "low": low, "high": high, "p": float(exact.pvalue)}
    else:
        test = stats.ttest_1samp(second - first, 0.0)
        if len(moved) > MOST_PERMUTED:
            found["p"] = float(test.pvalue)
        else:
            flipped = stats.permutation_test((moved,), np.mean, permutation_type="samples", vectorized=True, rng=0)
            found["p"] = float(flipped.pvalue)
    if test is not None:
        low, high = test.confidence_interval(0.95)
        found |= {"low": float(low), "high": float(high)}
    return found


def summary(values: Sequence[float], *, seed: int = 0) -> dict[str, float | int]:
    """Return count and mean of a metric's values, and of more than one their standard error and 95 % interval."""
    data = np.asarray(values, dtype=np.float64)
    found: dict[str, float | int] = {"n": len(data), "mean": float(data.mean())}
    if len(data) > 1:
        low, high = interval(values, seed=seed)
        found |= {"stderr": float(data.std(ddof=1) / np.sqrt(len(data))), "low": low, "high": high}
    return found


def by_metric(records: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, dict[str, float | int]]:
    """Return metric -> summary over the records that have it; values that are not numbers are left out."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for name, value in record["metrics"].items():
            if name != "unfit" and isinstance(value, (int, float)):
                values[name].append(float(value))
    return {name: summary(found, seed=seed) for name, found in values.items()}


def by_cell(
    records: Sequence[Mapping[str, Any]], fields: Sequence[str], *, metric: str
) -> list[dict[str, float | int | None]]:
    """Return one entry for every combination of fields: mean of the metric, how many were scored, how many not."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[field] for field in fields)].append(record["metrics"])
    cells = []
    for key, group in sorted(groups.items()):
        values = [float(found[metric]) for found in group if metric in found]
        cell: dict[str, Any] = dict(zip(fields, key, strict=True))
        cells.append({**cell, "n": len(values), "unfit": len(group) - len(values), "mean": _mean(values)})
    return cells


def average(cells: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the unweighted mean over the cells that were scored, or None."""
    return _mean([cell["mean"] for cell in cells if cell["mean"] is not None])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
