"""The declared settings of masked inputs, checked when they are made; imports neither torch nor Megatron."""

from dataclasses import dataclass
from functools import cached_property

from meap_megatron.declared import setting
from meap_megatron.errors import UserError
from meap_megatron.masking.arguments import check_span_length
from meap_megatron.masking.corruption import Corruption, OrdinaryIds
from meap_megatron.masking.ratio import MaskRatio, ratio_of_text
from meap_megatron.masking.strategies import STRATEGIES, strategy_named


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What is masked in the samples of one run; a field made by `setting` is a flag `--meap-...` and a recipe key too.

    Raises:
        UserError: a field breaks its rule; the message names the field, its value and the rule.
    """

    mask_id: int
    """Token id of [MASK]."""

    ratio: float | str = setting(
        0.15,
        "fraction of the input tokens of each sample to mask, in [0, 1); 0 is plain next-token prediction, the paper uses "
        "0.15. A range drawn per sample (0:0.5), or points of a schedule over training (0@0,0.15@0.1)",
        flag="mask_ratio",
        given=0.0,
        parse=ratio_of_text,
    )
    corruption: str = setting(
        "mask",
        "what takes the place of a chosen token: mask (the paper), random (an ordinary token), mix, or mix:MASK,RANDOM,KEPT "
        "with shares that add up to 1",
    )
    clean_fraction: float = setting(0.0, "share of the samples that are left unmasked, in [0, 1)")
    skip_first: int = setting(0, "never mask the first N positions of a sample")
    min_document_tokens: int = setting(0, "never mask documents of fewer than N tokens")
    strategy: str = setting(
        "random",
        "; ".join(f"{name}: {one.summary}" for name, one in STRATEGIES.items()),
        flag="mask_strategy",
        choices=tuple(STRATEGIES),
    )
    span_length: int = setting(1, "tokens per span, with strategy span (the paper has 5 and 50)", given=5)
    seed: int = setting(
        1234, "seed of the masks (default: --seed); data order keeps --seed", flag="mask_seed", given=None
    )
    mask_validation: bool = setting(False, "mask the validation inputs too (default: clean inputs)")

    ordinary: OrdinaryIds | None = None
    """Of which random tokens are drawn; needed by a corruption that draws them."""

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
            raise UserError(
                f"corruption is {self.corruption!r}, but ordinary is None",
                fix="give the ids of which tokens are drawn as ordinary",
            )
        strategy.check_settings(self)

    @cached_property
    def schedule(self) -> MaskRatio:
        """The ratio, read."""
        return MaskRatio.parse(self.ratio)

    @cached_property
    def shares(self) -> Corruption:
        """The corruption, read."""
        return Corruption.parse(self.corruption)
