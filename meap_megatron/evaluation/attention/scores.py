"""Score Decay and Variance Increase (section 5.1 and Table 10 of the paper). Pure functions of what keys receive.

Definitions, with A the weights after the softmax and M the masked positions, U all others:

    a[j]              mean of A[layer, head, query, j] over layers, heads and queries
    Att(X[M])         mean of a over M
    decay             (Att_NTP_clean(X[M]) - Att_MEAP_masked(X[M])) / Att_NTP_clean(X[M])
    variance increase Var(a over U) of MEAP on masked input, against NTP on clean input; population variance

The paper does not say over which queries it averages, so several scores are reported; `full` is the default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.evaluation.attention.paired import change

SCORES = ("full", "valid", "last_query", "no_sink")
"""full: over all T queries, zeros above the diagonal included. valid: over the queries that see the key. last_query:
of the last query only. no_sink: as full, without key 0."""
CELLS = ("ntp_clean", "ntp_masked", "meap_clean", "meap_masked")
COMPARISONS = {
    "table_10": ("ntp_clean", "meap_masked"),
    "model": ("ntp_clean", "meap_clean"),
    "input": ("meap_clean", "meap_masked"),
    "input_of_ntp": ("ntp_clean", "ntp_masked"),
    "model_on_masked": ("ntp_masked", "meap_masked"),
}
"""Name -> (from, to). Table 10 changes model and input at once; the others take the two apart."""
PAPER = {
    1024: {"decay": 0.3408, "decay_t": -25.71, "variance_increase": 0.1266, "variance_t": 12.26},
    4096: {"decay": 0.5334, "decay_t": -9.97, "variance_increase": 0.0780, "variance_t": 5.22},
}
"""Table 10, as fractions; all p < 1e-6."""


def query_sets(length: int) -> NDArray[np.float32]:
    """Return float32[2, T]: all queries, and the last one; what `sequence_scores` reads."""
    sets = np.zeros((2, length), dtype=np.float32)
    sets[0] = 1
    sets[1, -1] = 1
    return sets


def key_scores(received: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """Return score -> float64[T], and `layers` -> float64[L, T], from what keys receive.

    Args:
        received: float[2, L, T], attention from all queries (summed) and from the last query; means over heads.
    """
    summed, last = received.astype(np.float64)
    length = summed.shape[-1]
    seen_by = length - np.arange(length)
    full = summed / length
    return {
        "full": full.mean(axis=0),
        "valid": (summed / seen_by).mean(axis=0),
        "last_query": last.mean(axis=0),
        "layers": full,
    }


def sequence_scores(received: NDArray[np.floating], *, masked: NDArray[np.int64]) -> dict[str, Any]:
    """Return what is kept of one sequence in one cell.

    Given T = 4, one layer, all queries uniform, M = {2}; then a = (1 + 1/2 + 1/3 + 1/4, 1/2 + 1/3 + 1/4, 1/3 + 1/4,
    1/4) / 4, Att(X[M]) = a[2] = 7/48.

    Args:
        received: float[2, L, T], see `key_scores`.
        masked: int64[k], the positions M, whether they were masked in this cell or not.

    Returns:
        Score -> `masked` (mean over M) and `variance` (over U); `per_layer` -> the same of `full`, as lists.
    """
    scores = key_scores(received)
    length = received.shape[-1]
    inside = np.zeros(length, dtype=bool)
    inside[masked] = True
    layers = scores.pop("layers")
    found: dict[str, Any] = {
        name: {"masked": float(values[inside].mean()), "variance": float(values[~inside].var())}
        for name, values in scores.items()
    }
    rest = scores["full"][1:]
    found["no_sink"] = {"masked": float(rest[inside[1:]].mean()), "variance": float(rest[~inside[1:]].var())}
    found["per_layer"] = {
        "masked": layers[:, inside].mean(axis=1).tolist(),
        "variance": layers[:, ~inside].var(axis=1).tolist(),
    }
    return found


def compare(sequences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the cells of one length.

    Args:
        sequences: cell -> `sequence_scores`, for every sequence; `ntp_masked` may be absent.

    Returns:
        Score -> comparison -> `decay` and `variance_increase`, each a `paired.change` from the first cell to the
        second; `decay` also has `decay` and `mean_decay`, the signs turned round. Under `per_layer`: comparison ->
        `decay` and `variance_increase` of every layer, ratios of averages.
    """
    cells = sequences[0].keys()
    pairs = {name: pair for name, pair in COMPARISONS.items() if set(pair) <= set(cells)}

    def values(cell: str, score: str, kind: str) -> NDArray[np.float64]:
        return np.array([sequence[cell][score][kind] for sequence in sequences])

    found: dict[str, Any] = {}
    for score in SCORES:
        found[score] = {}
        for name, (first, second) in pairs.items():
            masked, variance = (
                change(values(first, score, kind), values(second, score, kind)) for kind in ("masked", "variance")
            )
            decay = {"decay": _less(masked["relative"]), "mean_decay": _less(masked["mean_relative"])}
            found[score][name] = {"decay": {**decay, **masked}, "variance_increase": variance}
    found["per_layer"] = {
        name: {
            "decay": _relative(values(first, "per_layer", "masked"), values(second, "per_layer", "masked"), sign=-1),
            "variance_increase": _relative(
                values(first, "per_layer", "variance"), values(second, "per_layer", "variance"), sign=1
            ),
        }
        for name, (first, second) in pairs.items()
    }
    return found


def _less(value: float | None) -> float | None:
    return None if value is None else -value


def _relative(first: NDArray[np.float64], second: NDArray[np.float64], *, sign: int) -> list[float | None]:
    """Return the relative change of every layer: arrays float64[n, L]."""
    means = zip(first.mean(axis=0), second.mean(axis=0), strict=True)
    return [sign * float(after / before - 1) if before else None for before, after in means]
