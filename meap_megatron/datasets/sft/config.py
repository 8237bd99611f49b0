"""The declared settings of a fine-tuning dataset, checked when they are made; imports neither torch nor Megatron."""

from dataclasses import dataclass
from functools import cached_property

from meap_megatron.errors import UserError
from meap_megatron.masking.corruption import Corruption, OrdinaryIds

CHOICES = {
    "layout": ("separate", "concat", "ntp"),
    "loss_on_original": ("answer+end", "none"),
    "loss_on_copy": ("masked", "all_answer", "answer+end"),
    "concat_order": ("orig_first", "mask_first"),
    "refresh": ("static", "per_epoch"),
    "sampler": ("philox", "official"),
    "over_long": ("error", "drop"),
}


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """What the rows of one fine-tuning run hold.

    Raises:
        UserError: a field breaks its rule; the message names the field, its value and the rule.
    """

    mask_id: int
    """Token id of [MASK]."""

    pad_id: int = 0
    """Id that fills a row after its last segment; any valid id, padding is told by position."""

    layout: str = "separate"
    """`separate`: the masked copy is a segment of its own (official code). `concat`: original and copy in one causal
    segment (the paper's text; the second half can read the answer in the first). `ntp`: no copy."""

    min_answer_tokens: int = 50
    """An answer is masked if it has more tokens than this (official code: 50)."""

    ratio: float = 0.10
    """Share of the kept tokens of an answer to mask in the copy, in (0, 1); at least one token."""

    loss_on_original: str = "answer+end"
    """`answer+end` trains the answers and their end tokens, `none` trains the copies only."""

    loss_on_copy: str = "masked"
    """`masked` trains the masked tokens only (official code), `all_answer` all answer tokens without their end,
    `answer+end` with it."""

    corruption: str = "mask"
    """What takes the place of a chosen token in the copy: `meap_megatron.masking.corruption`."""

    ordinary: OrdinaryIds | None = None
    """Of which random tokens are drawn; needed by a corruption that draws them."""

    concat_order: str = "orig_first"
    """Which half comes first in layout `concat`: `orig_first` or `mask_first`."""

    refresh: str = "static"
    """`static`: the same masks in every epoch (official code), `per_epoch`: new ones."""

    seed: int = 1234
    """Of the masks, in [0, 2**64); independent of the seed that orders the data."""

    sampler: str = "philox"
    """`philox`: masks as a function of seed, data, conversation and answer. `official`: CPython's
    `Random(seed).sample` for one answer after the other in the order of the data, as the published code."""

    over_long: str = "error"
    """What to do with conversations that do not fit into a row: `error`, or `drop` (counted)."""

    pack: bool = True
    """Many segments per row; False: one segment per row, as the official code."""

    pack_window: int = 16384
    """Segments that are packed together; more of them leave less padding and need more memory while packing."""

    shuffle: bool = True
    """New order of the segments in every epoch; False: the order of the data."""

    mask_validation: bool = False
    """Give the valid and test splits copies too; without, all layouts are validated on the same originals."""

    def __post_init__(self) -> None:
        """Check the fields that can be checked without the data."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        for name, value, least in (
            ("mask_id", self.mask_id, 0),
            ("pad_id", self.pad_id, 0),
            ("min_answer_tokens", self.min_answer_tokens, 0),
            ("pack_window", self.pack_window, 1),
        ):
            if value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}")
        if not 0 < self.ratio < 1:
            raise UserError(f"ratio is {self.ratio}; it must be in (0, 1); without masked copies, use layout 'ntp'")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}; it must be in [0, 2**64)")
        if self.sampler == "official" and self.refresh == "per_epoch":
            raise UserError("refresh 'per_epoch' with sampler 'official': the official code draws its masks once")
        if self.layout == "ntp" and self.loss_on_original == "none":
            raise UserError("loss_on_original 'none' with layout 'ntp': nothing would be trained")
        if self.shares.random > 0 and self.ordinary is None:
            raise UserError(f"corruption is {self.corruption!r}, but ordinary is None: of which ids are tokens drawn?")

    @cached_property
    def shares(self) -> Corruption:
        """The corruption, read."""
        return Corruption.parse(self.corruption)
