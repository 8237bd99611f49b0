"""Line charts and heat maps: what is drawn where. Pure functions; `templates/macros.html` draws."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from meap_megatron.report.collect import ReportedRun

Points = list[tuple[float, float]]
"""(x, y) pairs, ascending in x."""

LOW, MIDDLE, HIGH = (214, 72, 59), (252, 224, 144), (62, 145, 92)
"""Colours of 0, 50 and 100 per cent."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart."""

    label: str
    points: Points
    number: int
    """Of the run. There are 8 colours and 4 kinds of dashes, so that 32 lines differ, and 4 without colours."""
    dots: bool = False
    """Mark every point, for lines of few points."""

    @property
    def colour(self) -> int:
        """Return the number of the colour in the style sheet."""
        return self.number % 8

    @property
    def dashes(self) -> int:
        """Return the number of the kind of dashes in the style sheet."""
        return (self.number + self.number // 8) % 4


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart; its horizontal axis begins at 0, or at 1 where it is logarithmic."""

    WIDTH: ClassVar = 460
    HEIGHT: ClassVar = 270
    LEFT: ClassVar = 40
    RIGHT: ClassVar = 14
    TOP: ClassVar = 28
    BOTTOM: ClassVar = 38

    title: str
    curves: Sequence[Curve]
    x_label: str
    y_label: str
    note: str = ""
    top: float | None = None
    """Let the vertical axis run from 0 to this, or to the highest value if that is above it; None: over the values."""
    log: bool = False
    """Draw the vertical axis in powers of ten; all values must be above 0."""
    log_x: bool = False
    """Draw the horizontal axis from 1 in powers of two."""
    marks: Sequence[tuple[float, str]] = ()
    """(x, what it says) of vertical lines."""

    @cached_property
    def values(self) -> list[float]:
        """Return all values."""
        return [y for curve in self.curves for _, y in curve.points]

    @cached_property
    def x_end(self) -> float:
        """Return where the horizontal axis ends."""
        return max(x for curve in self.curves for x, _ in curve.points)

    @cached_property
    def y_range(self) -> tuple[float, float]:
        """Return the ends of the vertical axis, as powers of ten where it is logarithmic."""
        low, high = self._level(min(self.values)), self._level(max(self.values))
        margin = 0.05 * (high - low) or 0.5
        return (low - margin, high + margin) if self.top is None else (0.0, max(self.top, high + margin))

    def _level(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def x(self, value: float) -> float:
        """Return the place of a value on the horizontal axis."""
        share = math.log2(value) / math.log2(max(self.x_end, 2)) if self.log_x else value / max(self.x_end, 1e-9)
        return round(self.LEFT + share * (self.WIDTH - self.LEFT - self.RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the place of a value on the vertical axis."""
        low, high = self.y_range
        return round(self.TOP + (high - self._level(value)) / (high - low) * (self.HEIGHT - self.TOP - self.BOTTOM), 1)

    @property
    def x_ticks(self) -> list[float]:
        """Return the numbers beside the horizontal axis."""
        if self.log_x:
            return [2.0**power for power in range(0, int(math.log2(self.x_end)) + 1, 2)]
        return ticks(0.0, self.x_end)

    @property
    def y_ticks(self) -> list[float]:
        """Return the numbers beside the vertical axis."""
        low, high = self.y_range
        return log_ticks(10**low, 10**high) if self.log else ticks(low, high)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers inside [low, high], at most about six of them."""
    if high <= low:
        return [low]
    raw = (high - low) / 6
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten inside [low, high]; only the powers where these are too many."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    return found if len(found) < 9 else [10.0**power for power in powers if low <= 10.0**power]


def colour(share: float) -> str:
    """Return the colour of a share between red (0) and green (1)."""
    first, second, place = (LOW, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, HIGH, 2 * share - 1)
    return "#" + "".join(f"{round(a + (b - a) * place):02x}" for a, b in zip(first, second, strict=True))


def tokens(count: int) -> str:
    """Return a length as 4K or 1,500."""
    return f"{count // 1024}K" if count % 1024 == 0 else f"{count:,}"


def score_top(curves: Sequence[Curve]) -> float:
    """Return where an axis of scores in per cent ends: at 10, 25, 50 or 100, so that it shows how far there is to go."""
    highest = max((y for curve in curves for _, y in curve.points), default=0.0)
    return next(top for top in (10.0, 25.0, 50.0, 100.0) if highest <= top or top == 100.0)


def suite_charts(runs: Sequence[ReportedRun], suite: str) -> list[Chart]:
    """Return the charts of a suite's cells: score against place or length, loss against position; [] without any."""
    place: dict[str, Any] = {"y_label": "correct (%)", "x_of": lambda cell: cell["gold_index"] + 1}
    if suite == "mdqa":
        return panels(
            runs, suite, field="num_documents", unit="documents", x_label="place of the gold document", **place
        )
    if suite == "kv":
        return panels(runs, suite, field="num_keys", unit="keys", x_label="place of the key", **place)
    length: dict[str, Any] = {"x_label": "length (1,024 tokens)", "x_of": lambda cell: cell["length"] / 1024}
    if suite == "mrs":
        return panels(runs, suite, field="num_needles", unit="needles", y_label="expected words found (%)", **length)
    curves = [
        Curve(label=run.label, points=points, number=number, dots=True)
        for number, run in enumerate(runs)
        if (points := position_losses(run, suite) or length_scores(run, suite))
    ]
    if not curves or suite == "needle":
        return []
    if any(position_losses(run, suite) for run in runs):
        note = "Middle of each range of positions, on a scale of factors of 2."
        axes: dict[str, Any] = {"x_label": "tokens before", "y_label": "nats per token", "log_x": True, "note": note}
        return [Chart(title="Loss by position in the context", curves=curves, **axes)]
    top, label = score_top(curves), "length (1,024 tokens)"
    return [Chart(title="Score by length", curves=curves, x_label=label, y_label="score (%)", top=top)]


def length_scores(run: ReportedRun, suite: str) -> Points:
    """Return (1,024 tokens, mean score in per cent) of the lengths that a suite's headline has."""
    by_length = run.documents[suite]["headline"].get("by_length") or {} if suite in run.documents else {}
    known = {int(length): mean for length, mean in by_length.items() if isinstance(mean, (int, float))}
    return [(length / 1024, 100 * known[length]) for length in sorted(known)]


def position_losses(run: ReportedRun, suite: str) -> Points:
    """Return (position, loss) of the cells that are ranges of positions."""
    cells = run.documents[suite]["cells"] if suite in run.documents else []
    return [
        (max(1.0, (cell["from"] * cell["to"]) ** 0.5), cell["mean"])
        for cell in cells
        if "from" in cell and cell["mean"] is not None
    ]


def panels(
    runs: Sequence[ReportedRun],
    suite: str,
    *,
    field: str,
    unit: str,
    x_of: Callable[[Mapping[str, Any]], float],
    x_label: str,
    y_label: str,
) -> list[Chart]:
    """Return a chart for each value above 1 of a field of a suite's cells, in `unit`, all with the same vertical axis.

    `x_of` returns the place of a cell on the horizontal axis.
    """
    found: dict[int, list[Curve]] = {}
    for number, run in enumerate(runs):
        cells = run.documents[suite]["cells"] if suite in run.documents else []
        for value in sorted({cell[field] for cell in cells}):
            own = [cell for cell in cells if cell[field] == value and cell["mean"] is not None]
            points = [(x_of(cell), 100 * cell["mean"]) for cell in own]
            if points and value > 1:
                found.setdefault(value, []).append(Curve(label=run.label, points=points, number=number, dots=True))
    top = score_top([curve for curves in found.values() for curve in curves])
    return [
        Chart(title=f"{value} {unit}", curves=curves, x_label=x_label, y_label=y_label, top=top)
        for value, curves in sorted(found.items())
    ]
