"""One measured value, and the rule that it has to meet."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value with its unit, and the bounds that decide whether the check passes; without bounds it only informs."""

    name: str
    value: Any
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    equals: Any = None
    target: bool = False
    """A figure to reach rather than a condition of correctness: shown as met or missed."""

    @property
    def bounded(self) -> bool:
        """Whether the figure has a rule."""
        return not (self.at_least is None and self.at_most is None and self.equals is None)

    @property
    def good(self) -> bool:
        """Whether the rule holds; a missing value or NaN never meets one."""
        if not self.bounded:
            return True
        if self.equals is not None:
            return bool(self.value == self.equals)
        if not isinstance(self.value, int | float) or not math.isfinite(self.value):
            return False
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def expected(self) -> str:
        """The rule in words."""
        if self.equals is not None:
            return text(self.equals)
        if self.at_least is not None and self.at_most is not None:
            return f"{text(self.at_least)} to {text(self.at_most)}"
        if self.at_least is not None:
            return f"at least {text(self.at_least)}"
        return "" if self.at_most is None else f"at most {text(self.at_most)}"

    @property
    def verdict(self) -> str:
        """One word, empty without a rule."""
        if not self.bounded:
            return ""
        words = ("missed", "met") if self.target else ("failed", "passed")
        return words[self.good]

    def as_json(self) -> dict[str, Any]:
        """Return the figure for results.json; a value that JSON lacks becomes text."""
        value = self.value
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        return {**asdict(self), "value": value, "expected": self.expected, "verdict": self.verdict}


def text(value: Any) -> str:
    """Return a value as a table shows it: four digits that matter, thousands with commas."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)
