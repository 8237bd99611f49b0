"""What the records of a `metrics.jsonl` say of a training run. Pure functions."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meap_megatron.evaluation.report.lines import Points

WARM_UP_STEPS = 5
"""Left out of rates: first steps allocate memory."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One training run, over all its starts."""

    settings: dict[str, Any]
    """Of the last start: a resumed run may go on for longer."""
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    def points(self, field: str) -> Points:
        """Return (step, value) of a field of the training steps, without the steps that lack it."""
        return [(record["step"], record[field]) for record in self.steps if record.get(field) is not None]

    def validation_points(self) -> Points:
        """Return (step, loss) of the validations, nats per token."""
        return [
            (record["step"], record["lm_loss"]) for record in self.validations if record.get("lm_loss") is not None
        ]

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
    """Sort the records of one metrics file."""
    starts = [record for record in records if record["event"] == "start"]
    return Results(
        settings=starts[-1].get("run", {}) if starts else {},
        steps=[record for record in records if record["event"] == "step"],
        validations=[record for record in records if record["event"] == "validation"],
    )


def smoothed(points: Points, *, window: int) -> Points:
    """Return the mean over the `window` points around each point; fewer at both ends."""
    before, result = window // 2, []
    for index, (step, _) in enumerate(points):
        near = points[max(0, index - before) : index - before + window]
        result.append((step, statistics.fmean(value for _, value in near)))
    return result
