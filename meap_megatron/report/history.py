"""What the records of a `metrics.jsonl` say of a training run. Pure functions."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meap_megatron.monitoring.records import fold
from meap_megatron.report.lines import Points

WARM_UP_STEPS = 5
"""Left out of rates: first steps allocate memory."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One training run, over all its starts."""

    settings: dict[str, Any]
    """Of the last start: a resumed run may go on for longer."""
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    restarts: list[int]
    """The steps from which the run went on; the first start is none."""

    def points(self, field: str) -> Points:
        """Return (step, value) of a field of the training steps, without the steps that lack it or are not finite."""
        return _points(self.steps, field)

    def validation_points(self) -> Points:
        """Return (step, loss) of the validations, nats per token."""
        return _points(self.validations, "lm_loss")

    @property
    def num_steps(self) -> int:
        """Return the steps done."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    @property
    def consumed_tokens(self) -> int:
        """Return the trained positions."""
        return int(self.steps[-1]["consumed_tokens"]) if self.steps else 0

    @property
    def validation_loss(self) -> float | None:
        """Return the loss of the last validation, nats per token."""
        points = self.validation_points()
        return points[-1][1] if points else None

    def median(self, field: str) -> float | None:
        """Return the median of a field, without the first steps."""
        values = [value for _, value in self.points(field)]
        return statistics.median(values[WARM_UP_STEPS:] or values) if values else None

    def final(self, field: str) -> float | None:
        """Return the mean of a field over the last tenth of the steps."""
        values = [value for _, value in self.points(field)]
        return statistics.fmean(values[-max(1, len(values) // 10) :]) if values else None


def read_results(records: Sequence[dict[str, Any]]) -> Results:
    """Sort the records of one metrics file; of a step that was written twice, the later record counts."""
    history = fold(records)
    return Results(
        settings=history.settings, steps=history.steps, validations=history.validations, restarts=history.restarts
    )


def _points(records: Sequence[dict[str, Any]], field: str) -> Points:
    found = ((record["step"], record.get(field)) for record in records)
    return [(step, value) for step, value in found if value is not None and math.isfinite(value)]


def smoothed(points: Points, *, window: int) -> Points:
    """Return the mean over the `window` points around each point; fewer at both ends."""
    before, result = window // 2, []
    for index, (step, _) in enumerate(points):
        near = points[max(0, index - before) : index - before + window]
        result.append((step, statistics.fmean(value for _, value in near)))
    return result
