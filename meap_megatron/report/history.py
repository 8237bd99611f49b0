"""What the records of a `metrics.jsonl` say of a training run. Pure functions."""

import statistics
from collections.abc import Sequence
from typing import Any

from meap_megatron.monitoring.records import History, fold, value
from meap_megatron.report.charts import Points

WARM_UP_STEPS = 5
"""Left out of rates: first steps allocate memory."""


class Results(History):
    """One training run, over all its starts, with what a report says of it."""

    def points(self, field: str) -> Points:
        """Return (step, value) of a field of the training steps, without the steps that lack it or are not finite."""
        return _points(self.steps, field)

    def validation_points(self, field: str = "lm_loss") -> Points:
        """Return (step, value) of the validations; losses are in nats per token."""
        return _points(self.validations, field)

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
    return Results(**vars(fold(records)))


def _points(records: Sequence[dict[str, Any]], field: str) -> Points:
    return [(record["step"], number) for record in records if (number := value(record, field)) is not None]


def smoothed(points: Points, *, window: int) -> Points:
    """Return the mean over the `window` points around each point; fewer at both ends."""
    before, result = window // 2, []
    for index, (step, _) in enumerate(points):
        near = points[max(0, index - before) : index - before + window]
        result.append((step, statistics.fmean(value for _, value in near)))
    return result
