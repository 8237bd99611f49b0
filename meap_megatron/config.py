"""The declared settings of masking, checked when they are made; imports neither torch nor Megatron."""

from dataclasses import dataclass

from meap_megatron.errors import UserError
from meap_megatron.masking.arguments import check_ratio, check_span_length
from meap_megatron.masking.strategies import strategy_named


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What is masked in the samples of one run.

    Raises:
        UserError: a field breaks its rule; the message names the field, its value and the rule.
    """

    mask_id: int
    """Token id of [MASK]."""

    ratio: float = 0.15
    """Share of the input positions to mask, in [0, 1); 0 is plain next-token prediction."""

    strategy: str = "random"
    """`random`, `span`, or `official51` (the 51 position sets of the official code, cycling with the step)."""

    span_length: int = 1
    """Positions per run, for `span` (the paper has 5 and 50)."""

    seed: int = 1234
    """Of the masks, in [0, 2**64); independent of the seed that orders the data."""

    mask_validation: bool = False
    """Mask the valid and test splits too; the official code does not."""

    protected_ids: tuple[int, ...] = ()
    """Token ids that are never masked; empty as in the official code."""

    global_batch_size: int | None = None
    """Samples per optimizer step; needed by `official51`, whose step is sample index // global_batch_size."""

    def __post_init__(self) -> None:
        """Check the fields that can be checked without the data."""
        if self.mask_id < 0:
            raise UserError(f"mask_id is {self.mask_id}; it must be a token id, at least 0")
        check_ratio(self.ratio)
        strategy = strategy_named(self.strategy)
        check_span_length(self.span_length)
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}; it must be in [0, 2**64)")
        if any(token_id < 0 for token_id in self.protected_ids):
            raise UserError(f"protected_ids is {self.protected_ids}; token ids are at least 0")
        strategy.check_settings(
            span_length=self.span_length,
            global_batch_size=self.global_batch_size,
            protected_ids=self.protected_ids,
        )
