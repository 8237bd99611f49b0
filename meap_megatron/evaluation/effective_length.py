"""The effective length of a model: up to which length it keeps a score. A pure function of a suite's cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from meap_megatron.evaluation.statistics import average

THRESHOLD = 0.856
"""Score that RULER asks for: that of Llama-2-7B at 4,096 tokens."""
SHARE = 0.85
"""Share of the score at the base length that NoLiMa asks for."""


def effective_length(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the effective lengths of the cells of one suite, or None where nothing was scored.

    `absolute` is the longest length (tokens) with a score of at least `threshold`, `relative` the longest with at least
    `share` of `base_score`, the score at `base_length`, the shortest one; None where no length has it. The score of a length
    is the unweighted mean over its cells, a fraction.
    """
    means = {
        length: average([cell for cell in cells if cell["length"] == length])
        for length in sorted({cell["length"] for cell in cells if "length" in cell})
    }
    scores = {length: mean for length, mean in means.items() if mean is not None}
    if not scores:
        return None
    base = min(scores)

    def longest(needed: float) -> int | None:
        return max((length for length, score in scores.items() if score >= needed - 1e-12), default=None)

    return {
        "threshold": THRESHOLD,
        "absolute": longest(THRESHOLD),
        "share": SHARE,
        "relative": longest(SHARE * scores[base]) if scores[base] > 0 else None,
        "base_length": base,
        "base_score": scores[base],
        "scores": {str(length): score for length, score in scores.items()},
    }
