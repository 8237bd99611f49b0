"""Two values for every sample, one of each model: how much they differ, and whether that could be chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def tests(
    before: Sequence[float] | NDArray[np.float64], after: Sequence[float] | NDArray[np.float64]
) -> dict[str, Any]:
    """Return two-sided tests of `after` against `before`; a positive statistic says that `after` is larger.

    Paired t (degrees of freedom n - 1), Welch's t (unequal variances, not paired) and Wilcoxon's signed ranks. A test
    that is not defined (one sample, or no difference at all) is None.
    """
    from scipy import stats

    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    count = len(first)
    differences = second - first
    if count < 2 or not np.any(differences):
        return {"n": count, "paired_t": None, "welch_t": None, "wilcoxon": None}
    found: dict[str, Any] = {"n": count}
    for name, result in (
        ("paired_t", None if np.ptp(differences) == 0 else stats.ttest_rel(second, first)),
        ("welch_t", stats.ttest_ind(second, first, equal_var=False) if first.std() + second.std() > 0 else None),
        ("wilcoxon", stats.wilcoxon(second, first)),
    ):
        if result is None or not np.isfinite(result.statistic):
            found[name] = None
            continue
        found[name] = {"statistic": float(result.statistic), "p": float(result.pvalue)}
        if hasattr(result, "df"):
            found[name]["df"] = float(result.df)
    return found


def change(
    before: Sequence[float] | NDArray[np.float64], after: Sequence[float] | NDArray[np.float64]
) -> dict[str, Any]:
    """Return how `after` differs from `before`, over samples.

    `relative` is the ratio of the averages less 1; `mean_relative` the average of the samples' own ratios less 1. Both
    are None where a divisor is 0.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    return {
        "before": float(first.mean()),
        "after": float(second.mean()),
        "difference": float((second - first).mean()),
        "relative": float(second.mean() / first.mean() - 1) if first.mean() else None,
        "mean_relative": float((second / first - 1).mean()) if first.all() else None,
        "tests": tests(first, second),
    }
