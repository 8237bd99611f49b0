"""Means with their uncertainty: per metric, per cell of a figure. Pure functions of the sample records."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean (percentiles of 2,000 resamples of the samples)."""
    data = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(data), size=(RESAMPLES, len(data)), dtype=np.int32)
    low, high = np.percentile(data[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def summary(values: Sequence[float], *, seed: int = 0) -> dict[str, float | int]:
    """Return count and mean of a metric's values, and of more than one their standard error and 95 % interval."""
    data = np.asarray(values, dtype=np.float64)
    found: dict[str, float | int] = {"n": len(data), "mean": float(data.mean())}
    if len(data) > 1:
        low, high = interval(values, seed=seed)
        found |= {"stderr": float(data.std(ddof=1) / np.sqrt(len(data))), "low": low, "high": high}
    return found


def by_metric(records: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, dict[str, float | int]]:
    """Return metric -> summary over the records that have it; values that are no numbers are left out."""
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
