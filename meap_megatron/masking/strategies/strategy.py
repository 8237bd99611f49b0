"""What a masking strategy is: which of the eligible positions of a sample are masked."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from meap_megatron.masking.ratio import MaskRatio


class StrategySettings(Protocol):
    """The settings that a strategy may look at; `MaskConfig` has them."""

    @property
    def ratio(self) -> float | str:
        """Share of the input positions to change, as given."""

    @property
    def schedule(self) -> MaskRatio:
        """The ratio, read."""

    @property
    def protected_ids(self) -> tuple[int, ...]:
        """Token ids that are never masked."""

    @property
    def global_batch_size(self) -> int | None:
        """Samples per optimizer step."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One sample's choice: `count` of the integers 0..num_eligible-1, which are indices into its eligible positions."""

    seed: int
    dataset_key: int
    sample_index: int
    num_eligible: int
    count: int
    """At least 1, at most num_eligible."""
    span_length: int = 1
    """At most num_eligible."""
    step: int = 0
    """Optimizer step, from 0."""


class Strategy:
    """A strategy: a subclass in a file of its own, and a line in `STRATEGIES`.

    `choose` is the specification; the function of the same name in csrc/strategies computes the same integers bit for
    bit. The two checks refuse what would make it wrong: settings without data, and one sample's sizes.
    """

    name: ClassVar[str]
    """In recipes, flags and the native registry."""
    summary: ClassVar[str]
    """For --help: what is masked, a few words."""
    follows_step: ClassVar[bool] = False
    """The positions depend on the optimizer step alone: those of the whole length, padding or not, none protected."""

    def check_settings(self, config: StrategySettings) -> None:
        """Raise UserError if a setting breaks a rule of this strategy."""

    def check_sample(
        self, *, span_length: int, num_eligible: int, step: int | None, eligible: NDArray[np.int64] | None
    ) -> None:
        """Raise UserError if one sample breaks a rule of this strategy."""

    def choose(self, draw: Draw) -> NDArray[np.int64]:
        """Return int64[count], ascending: distinct integers of 0..num_eligible-1."""
        raise NotImplementedError
