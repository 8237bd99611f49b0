"""The declared settings of masked inputs, checked when they are made; imports neither torch nor Megatron."""

from dataclasses import dataclass
from functools import cached_property

from meap_megatron.errors import UserError
from meap_megatron.masking.arguments import check_span_length
from meap_megatron.masking.corruption import Corruption, OrdinaryIds
from meap_megatron.masking.ratio import MaskRatio
from meap_megatron.masking.strategies import strategy_named


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What is masked in the samples of one run.

    Raises:
        UserError: a field breaks its rule; the message names the field, its value and the rule.
    """

    mask_id: int
    """Token id of [MASK]."""

    ratio: float | str = 0.15
    """Share of the input positions to change, in [0, 1); 0 is plain next-token prediction. A range drawn per sample, or a
    schedule over training: `meap_megatron.masking.ratio`."""

    clean_fraction: float = 0.0
    """Share of the samples that are left as they are, in [0, 1)."""

    strategy: str = "random"
    """`random`, `span`, or `official51` (the 51 position sets of the official code, cycling with the step)."""

    span_length: int = 1
    """Positions per run, for `span` (the paper has 5 and 50)."""

    skip_first: int = 0
    """The first positions of a sample that are never changed."""

    min_document_tokens: int = 0
    """Positions of documents with fewer tokens are never changed."""

    corruption: str = "mask"
    """What takes the place of a chosen token: `meap_megatron.masking.corruption`."""

    ordinary: OrdinaryIds | None = None
    """Of which random tokens are drawn; needed by a corruption that draws them."""

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
        strategy = strategy_named(self.strategy)
        check_span_length(self.span_length)
        if not 0 <= self.clean_fraction < 1:
            raise UserError(f"clean_fraction is {self.clean_fraction}; it must be in [0, 1)")
        for name in ("skip_first", "min_document_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}; it must be in [0, 2**64)")
        if any(token_id < 0 for token_id in self.protected_ids):
            raise UserError(f"protected_ids is {self.protected_ids}; token ids are at least 0")
        assert self.schedule  # read here, so that a wrong one is refused now
        if self.shares.random > 0 and self.ordinary is None:
            raise UserError(f"corruption is {self.corruption!r}, but ordinary is None: of which ids are tokens drawn?")
        strategy.check_settings(self)

    @cached_property
    def schedule(self) -> MaskRatio:
        """The ratio, read."""
        return MaskRatio.parse(self.ratio)

    @cached_property
    def shares(self) -> Corruption:
        """The corruption, read."""
        return Corruption.parse(self.corruption)
