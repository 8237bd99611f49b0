"""How much of a sample is masked: a number, a range drawn per sample, or a schedule over training.

    0.15                          every sample
    0:0.5                         uniform in [0, 0.5), drawn for each sample
    0@0, 0.15@0.1                 from 0 to 0.15 over the first tenth of the samples, then 0.15
    0.15@0, 0.15@0.8, 0@1         0 at the end
    0.3@0, 0.3@0.5, 0.1@0.5       a step at half time

A point is VALUE@PROGRESS; between two points the value is linear, and of two points at one progress the later holds
from there on. Progress is the sample's index divided by the number of samples that the run draws of its dataset, so it
depends on nothing but the sample: not on the layout, the order of reading or a resumption.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from meap_megatron.errors import UserError

SYNTAX = "a number (0.15), a range drawn per sample (0:0.5), or points of a schedule (0@0, 0.15@0.1)"
_POINT = re.compile(r"([^:@]+)(?::([^:@]+))?(?:@([^:@]+))?")


@dataclass(frozen=True)
class RatioPoint:
    """The ratio at one moment of training: uniform in [low, high), or `low` where both are equal."""

    progress: float
    low: float
    high: float


@dataclass(frozen=True)
class MaskRatio:
    """The ratio of every sample of a run; csrc/corruption/ratio.hpp computes the same doubles."""

    points: tuple[RatioPoint, ...]

    @classmethod
    def parse(cls, value: Any) -> "MaskRatio":
        """Read a setting.

        Raises:
            UserError: it has another form, a ratio is outside [0, 1), or progress does not ascend within [0, 1].
        """
        texts = [text.strip() for text in str(value).split(",")]
        points = [_point(text, value) for text in texts]
        if len(points) > 1 and not all("@" in text for text in texts):
            raise UserError(f"ratio is {value!r}: each of several points needs its @PROGRESS; it is {SYNTAX}")
        for before, after in zip(points, points[1:], strict=False):
            if after.progress < before.progress:
                raise UserError(
                    f"ratio is {value!r}: progress {after.progress:g} follows {before.progress:g}", fix="sort them"
                )
        return cls(tuple(points))

    def at(self, progress: float, uniform: float) -> float:
        """Return the ratio of one sample.

        Args:
            progress: in [0, 1].
            uniform: drawn for the sample, in [0, 1).
        """
        after = bisect_right(self._progress, progress)
        low, high = (0.0, 0.0)
        if after == 0 or after == len(self.points):
            point = self.points[max(after - 1, 0)]
            low, high = point.low, point.high
        else:
            one, two = self.points[after - 1], self.points[after]
            share = (progress - one.progress) / (two.progress - one.progress)
            low, high = one.low + (two.low - one.low) * share, one.high + (two.high - one.high) * share
        return low + (high - low) * uniform

    @property
    def constant(self) -> float | None:
        """The ratio of all samples, or None if they differ."""
        values = {value for point in self.points for value in (point.low, point.high)}
        return values.pop() if len(values) == 1 else None

    @property
    def highest(self) -> float:
        """The highest ratio that a sample can have; 0 if nothing is ever masked."""
        return max(point.high for point in self.points)

    @property
    def follows_training(self) -> bool:
        """Whether the ratio changes with the progress of training."""
        return len({(point.low, point.high) for point in self.points}) > 1

    @cached_property
    def _progress(self) -> list[float]:
        return [point.progress for point in self.points]


def check_ratio(ratio: float) -> None:
    """Raise UserError unless ratio is in [0, 1); NaN is not."""
    if not 0 <= ratio < 1:
        raise UserError(f"ratio is {ratio}; it must be in [0, 1), the paper uses 0.15")


def ratio_of_text(text: str) -> float | str:
    """Return a setting as a number if it is one, else as the text of a range or schedule, checked.

    Raises:
        UserError: see `MaskRatio.parse`.
    """
    constant = MaskRatio.parse(text).constant
    return text if constant is None else constant


def masks_anything(ratio: Any) -> bool:
    """Tell whether a setting of the ratio, as a recipe or flag has it, ever masks a token."""
    return MaskRatio.parse(ratio).highest > 0


def _point(text: str, value: Any) -> RatioPoint:
    match = _POINT.fullmatch(text)
    try:
        numbers = [None if part is None else float(part) for part in match.groups()] if match else []
    except ValueError:
        numbers = []
    if not numbers:
        raise UserError(f"ratio is {value!r}; it is {SYNTAX}")
    low, high, progress = numbers
    assert low is not None
    high = low if high is None else high
    progress = 0.0 if progress is None else progress
    check_ratio(low)
    check_ratio(high)
    if high < low:
        raise UserError(f"ratio is {value!r}: the range {low:g}:{high:g} is empty", fix=f"write {high:g}:{low:g}")
    if not 0 <= progress <= 1:
        raise UserError(f"ratio is {value!r}: progress {progress:g} is outside [0, 1], the share of the run's samples")
    return RatioPoint(progress, low, high)
