"""Which positions are trained, and with which weight, as whole numbers: Megatron counts trained tokens as integers.

    all                       every position that the data trains (the paper)
    unmasked                  positions whose input was not changed
    predictors                positions whose label was changed in the input: those that predict a masked token
    masked=0.5,unmasked=1     weights of positions whose input was changed, and of the others

A loss is the sum of weight times cross-entropy over the sum of weights, over the whole global batch. Weights are scaled
to the smallest whole numbers in their proportion, so that the sum of weights is exact.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from meap_megatron.errors import UserError

SYNTAX = "all, unmasked, predictors, or weights as in masked=0.5,unmasked=1"
FINEST = 1000
"""Weights are multiples of 1 / FINEST."""


@dataclass(frozen=True)
class LossOn:
    """Whole-number weights of the positions of a training step."""

    changed: int = 1
    """Of positions whose input (`of_target`: whose label) was changed."""
    unchanged: int = 1
    of_target: bool = False
    masked_row: Fraction = Fraction(1)
    """What the positions of the masked row of a pair are multiplied by."""

    @classmethod
    def parse(cls, text: str, *, pair_weight: float = 1.0) -> "LossOn":
        """Read a setting.

        Args:
            text: see the head of this file.
            pair_weight: of the masked row of a pair (`clean+masked`), in (0, 1].

        Raises:
            UserError: another form, or a weight that is out of range or finer than 1 / FINEST.
        """
        row = _fraction("pair weight", str(pair_weight))
        if row == 0:
            raise UserError("the pair weight is 0: the masked rows would train nothing", fix="leave the pair out")
        if text in ("all", "unmasked", "predictors"):
            changed, unchanged = {"all": (1, 1), "unmasked": (0, 1), "predictors": (1, 0)}[text]
            return cls(changed, unchanged, text == "predictors", row)
        named = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
        if set(named) != {"masked", "unmasked"}:
            raise UserError(f"loss_on is {text!r}; it is {SYNTAX}")
        weights = [_fraction(name, named[name]) for name in ("masked", "unmasked")]
        if not any(weights):
            raise UserError(f"loss_on is {text!r}: nothing would be trained")
        scale = math.lcm(*(weight.denominator for weight in weights))
        divisor = math.gcd(*(int(weight * scale) for weight in weights))
        changed, unchanged = (int(weight * scale) // divisor for weight in weights)
        return cls(changed, unchanged, False, row)

    @property
    def is_plain(self) -> bool:
        """Whether every trained position weighs 1."""
        return (self.changed, self.unchanged, self.masked_row) == (1, 1, 1)

    @property
    def row_weights(self) -> tuple[int, int]:
        """Whole numbers that the weights of a clean and of a masked row are multiplied by."""
        return self.masked_row.denominator, self.masked_row.numerator

    @property
    def largest(self) -> int:
        """The largest weight of a position."""
        return max(self.changed, self.unchanged) * max(self.row_weights)


def _fraction(name: str, text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1 or (value * FINEST).denominator != 1:
        raise UserError(f"the weight {name}={text} must be in [0, 1], a multiple of {Fraction(1, FINEST)}")
    return value
