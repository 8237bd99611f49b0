"""Two runs beside each other: settings that differ, the first step that differs, losses at equal tokens. Pure functions."""

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from meap_megatron.monitoring.records import History, Record, value

FIELDS = (
    "consumed_tokens",
    "learning_rate",
    "mask_fraction",
    "trained_fraction",
    "lm_loss",
    "masked_loss",
    "other_loss",
    "grad_norm",
)
"""What two equal runs have in common at every step; times are not among them."""
ROWS = 10
"""Of the table at equal tokens."""
SMOOTHED_SHARE = 0.02
"""Part of a run's steps over which a training loss of that table is averaged."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first step at which two runs differ."""

    step: int
    field: str
    kind: str
    """ "step" or "validation"."""
    first: float | None
    second: float | None

    @property
    def relative(self) -> float | None:
        """|a - b| over the larger of both."""
        if self.first is None or self.second is None:
            return None
        largest = max(abs(self.first), abs(self.second))
        return abs(self.first - self.second) / largest if largest else 0.0


@dataclass(frozen=True, kw_only=True)
class EqualTokens:
    """Losses of both runs after the same number of tokens, nats per token."""

    tokens: int
    first: float | None
    second: float | None
    first_validation: float | None
    second_validation: float | None


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What is to be said of two runs."""

    settings: dict[str, tuple[Any, Any]]
    """Those that differ."""
    common_steps: int
    common_validations: int
    last_steps: tuple[int, int]
    difference: Difference | None
    largest_relative: float
    """Largest relative difference of a training loss over the common steps."""
    rows: list[EqualTokens]

    @property
    def equal(self) -> bool:
        """Whether both have the same steps, without a difference."""
        return self.difference is None and self.last_steps[0] == self.last_steps[1] and self.common_steps > 0

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        difference = asdict(self.difference) | {"relative": self.difference.relative} if self.difference else None
        return asdict(self) | {"difference": difference, "equal": self.equal}


def compare(first: History, second: History, *, tolerance: float = 0.0) -> RunComparison:
    """Compare two runs.

    Args:
        tolerance: relative difference up to which two values count as equal; 0: to the bit.
    """
    a, b = ({record["step"]: record for record in history.steps} for history in (first, second))
    steps = sorted(a.keys() & b.keys())
    va, vb = ({record["step"]: record for record in history.validations} for history in (first, second))
    validations = sorted(va.keys() & vb.keys())
    found = [
        found
        for found in (
            first_difference(steps, a, b, kind="step", tolerance=tolerance),
            first_difference(validations, va, vb, kind="validation", tolerance=tolerance),
        )
        if found is not None
    ]
    names = sorted(first.settings.keys() | second.settings.keys())
    gaps = [relative(a[step].get("lm_loss"), b[step].get("lm_loss")) for step in steps]
    return RunComparison(
        settings={
            name: (first.settings.get(name), second.settings.get(name))
            for name in names
            if first.settings.get(name) != second.settings.get(name) and name != "peak_tflops_per_device"
        },
        common_steps=len(steps),
        common_validations=len(validations),
        last_steps=(first.last_step, second.last_step),
        difference=min(found, key=lambda one: one.step, default=None),
        largest_relative=max((gap for gap in gaps if gap is not None), default=0.0),
        rows=at_equal_tokens(first, second),
    )


def first_difference(
    steps: Sequence[int], a: dict[int, Record], b: dict[int, Record], *, kind: str, tolerance: float
) -> Difference | None:
    """Return the first of the common steps with a field that differs by more than the tolerance."""
    for step in steps:
        for field in FIELDS:
            first, second = a[step].get(field), b[step].get(field)
            gap = relative(first, second)
            if first != second and (gap is None or not gap <= tolerance):
                return Difference(step=step, field=field, kind=kind, first=first, second=second)
    return None


def relative(first: float | None, second: float | None) -> float | None:
    """Return |a - b| over the larger of both; None if one is missing."""
    if first is None or second is None:
        return None
    return abs(first - second) / (max(abs(first), abs(second)) or 1.0)


def at_equal_tokens(first: History, second: History) -> list[EqualTokens]:
    """Return losses at `ROWS` numbers of tokens, evenly spread over what both runs have done.

    A training loss is the mean over the last steps up to that number; a validation loss is the newest one up to it.
    """
    ends = [history.steps[-1]["consumed_tokens"] if history.steps else 0 for history in (first, second)]
    if not min(ends):
        return []
    places = [min(ends) * number // ROWS for number in range(1, ROWS + 1)]
    return [
        EqualTokens(
            tokens=place,
            first=training_loss(first, place),
            second=training_loss(second, place),
            first_validation=validation_loss(first, place),
            second_validation=validation_loss(second, place),
        )
        for place in places
    ]


def training_loss(history: History, tokens: int) -> float | None:
    """Return the mean loss of the last steps up to a number of tokens."""
    here = bisect_right(history.steps, tokens, key=lambda record: record["consumed_tokens"])
    width = max(1, int(SMOOTHED_SHARE * len(history.steps)))
    near = history.steps[max(0, here - width) : max(1, here)]
    losses = [loss for record in near if (loss := value(record, "lm_loss")) is not None]
    return statistics.fmean(losses) if losses else None


def validation_loss(history: History, tokens: int) -> float | None:
    """Return the newest validation loss up to a number of tokens."""
    here = bisect_right(history.steps, tokens, key=lambda record: record["consumed_tokens"])
    last = history.steps[here - 1]["step"] if here else 0
    done = [record for record in history.validations if record["step"] <= last]
    return value(done[-1], "lm_loss") if done else None
