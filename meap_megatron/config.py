"""The declared settings of masking, checked when they are made; imports neither torch nor Megatron."""

from dataclasses import dataclass

from meap_megatron.errors import UserError
from meap_megatron.masking.arguments import STRATEGIES, check_ratio


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
        if self.strategy not in STRATEGIES:
            raise UserError(f"strategy is {self.strategy!r}; it must be one of {', '.join(STRATEGIES)}")
        if self.span_length < 1:
            raise UserError(f"span_length is {self.span_length}; it must be at least 1")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}; it must be in [0, 2**64)")
        if any(token_id < 0 for token_id in self.protected_ids):
            raise UserError(f"protected_ids is {self.protected_ids}; token ids are at least 0")
        if self.strategy == "official51":
            if self.global_batch_size is None or self.global_batch_size < 1:
                raise UserError(
                    f"global_batch_size is {self.global_batch_size}; strategy 'official51' needs the number of "
                    "samples per optimizer step, because its masks follow the step"
                )
            if self.protected_ids:
                raise UserError(
                    f"protected_ids is {self.protected_ids}; strategy 'official51' protects no token, as the official "
                    "code: leave protected_ids empty or use strategy 'random'"
                )
