"""What a run's `metrics.jsonl` says, as the numbers that the page shows. Pure functions of records."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]
Points = list[tuple[float, float]]
"""(step, value) pairs, ascending."""

WARM_UP_STEPS = 5
"""Left out of timings: first steps allocate memory."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One run."""

    name: str
    settings: dict[str, Any]
    steps: list[Record]
    validations: list[Record]
    seconds: float | None
    """Of the whole run, from the first step to the end; None if it has not ended."""

    def points(self, field: str) -> Points:
        """Return (step, value) of a field of the training steps, without the steps that lack it."""
        return [(r["step"], r[field]) for r in self.steps if r.get(field) is not None]

    def validation_points(self, field: str = "lm_loss") -> Points:
        """Return (step, value) of a field of the validations."""
        return [(r["step"], r[field]) for r in self.validations if r.get(field) is not None]

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return int(self.steps[-1]["step"]) if self.steps else 0

    @property
    def consumed_tokens(self) -> int:
        """Trained positions."""
        return int(self.steps[-1]["consumed_tokens"]) if self.steps else 0

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a step."""
        return self.median("seconds")

    @property
    def tokens_per_second(self) -> float | None:
        """Median rate of a step."""
        return self.median("tokens_per_second")

    @property
    def mfu(self) -> float | None:
        """Median model FLOP/s over the stated peak."""
        return self.median("mfu")

    @property
    def mask_fraction(self) -> float | None:
        """Mean fraction of the input tokens that were masked."""
        values = [value for _, value in self.points("mask_fraction")]
        return statistics.fmean(values) if values else None

    def median(self, field: str) -> float | None:
        """Return the median of a field, without the first steps."""
        values = [value for _, value in self.points(field)]
        return statistics.median(values[WARM_UP_STEPS:] or values) if values else None

    def final(self, field: str, *, share: float = 0.1) -> float | None:
        """Return the mean of a field over the last `share` of the steps."""
        values = [value for _, value in self.points(field)]
        return statistics.fmean(values[-max(1, int(len(values) * share)) :]) if values else None

    @property
    def validation_loss(self) -> float | None:
        """Loss of the last validation, nats per token."""
        points = self.validation_points()
        return points[-1][1] if points else None


def read_results(name: str, records: Sequence[Record]) -> Results:
    """Sort the records of one metrics file."""
    started: Record = next((r for r in records if r["event"] == "start"), {"run": {}})
    ended = next((r for r in reversed(records) if r["event"] == "end"), None)
    return Results(
        name=name,
        settings=started["run"],
        steps=[r for r in records if r["event"] == "step"],
        validations=[r for r in records if r["event"] == "validation"],
        seconds=ended["seconds"] if ended else None,
    )


def smoothed(points: Points, *, window: int) -> Points:
    """Return the mean over the `window` points around each point; fewer at both ends."""
    before = window // 2
    result: Points = []
    for index, (step, _) in enumerate(points):
        near = points[max(0, index - before) : index - before + window]
        result.append((step, statistics.fmean(value for _, value in near)))
    return result


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return the quotient, None where one of the two is not known."""
    return numerator / denominator if numerator is not None and denominator else None


def parameter_count(settings: dict[str, Any]) -> int:
    """Return the number of parameters of a Llama-shaped model with untied embeddings and no biases.

    Args:
        settings: those of the "start" record.
    """
    hidden, layers = settings["hidden_size"], settings["num_layers"]
    head = hidden // settings["num_attention_heads"]
    attention = hidden * hidden * 2 + 2 * hidden * head * settings["num_query_groups"]
    feed_forward = 3 * hidden * settings["ffn_hidden_size"]
    norms = 2 * hidden
    return 2 * settings["padded_vocab_size"] * hidden + layers * (attention + feed_forward + norms) + hidden
