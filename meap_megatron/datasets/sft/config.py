"""The declared settings of a fine-tuning dataset, checked when they are made; imports neither torch nor Megatron."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from meap_megatron.declared import check_choices, setting
from meap_megatron.errors import UserError
from meap_megatron.indexed.ordinary_ids import ordinary_ids
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.masking.corruption import Corruption, OrdinaryIds


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """What the rows of one fine-tuning run hold; a field made by `setting` is a flag `--meap-sft-...` and a recipe key too.

    Raises:
        UserError: a field breaks its rule; the message names the field, its value and the rule.
    """

    mask_id: int
    """Token id of [MASK]."""

    pad_id: int = 0
    """Id that fills a row after its last segment; any valid id, padding is told by position."""

    layout: str = setting(
        "separate",
        "where the masked copy is: separate, a segment of its own (official code), or concat, behind the original in one "
        "causal segment (the paper's text; it can read the answer there)",
        choices=("separate", "concat"),
        besides=("ntp",),  # no copy
    )
    min_answer_tokens: int = setting(
        50, "mask answers of more than this many tokens (official code: 50)", flag="min_answer"
    )
    loss_on_original: str = setting(
        "answer+end",
        "what is trained of the original: the answers and their end tokens, or nothing",
        choices=("answer+end", "none"),
    )
    loss_on_copy: str = setting(
        "masked",
        "what is trained of the copy: the masked tokens (official code), all answer tokens without their end, or with it",
        choices=("masked", "all_answer", "answer+end"),
    )
    concat_order: str = setting(
        "orig_first", "which half comes first in layout concat", choices=("orig_first", "mask_first")
    )
    refresh: str = setting(
        "static",
        "draw the masks once (official code), or again in every epoch",
        choices=("static", "per_epoch"),
    )
    sampler: str = setting(
        "philox",
        "philox: masks as a function of seed, data, conversation and answer. official: CPython's random.sample for one "
        "answer after the other, as the official code",
        choices=("philox", "official"),
    )
    over_long: str = setting(
        "error", "what to do with conversations longer than a row (drop counts them)", choices=("error", "drop")
    )
    pack: bool = setting(True, "one segment per row, padded (official code)", flag="no_pack")

    ratio: float = 0.10
    """Share of the kept tokens of an answer to mask in the copy, in (0, 1); at least one token."""

    corruption: str = "mask"
    """What takes the place of a chosen token in the copy: `meap_megatron.masking.corruption`."""

    ordinary: OrdinaryIds | None = None
    """Of which random tokens are drawn; needed by a corruption that draws them."""

    seed: int = 1234
    """Of the masks, in [0, 2**64); independent of the seed that orders the data."""

    pack_window: int = 16384
    """Segments that are packed together; more of them leave less padding and need more memory while packing."""

    shuffle: bool = True
    """New order of the segments in every epoch; False: the order of the data."""

    mask_validation: bool = False
    """Give the valid and test splits copies too; without, all layouts are validated on the same originals."""

    def __post_init__(self) -> None:
        """Check the fields that can be checked without the data."""
        check_choices(self)
        for name, value, least in (
            ("mask_id", self.mask_id, 0),
            ("pad_id", self.pad_id, 0),
            ("min_answer_tokens", self.min_answer_tokens, 0),
            ("pack_window", self.pack_window, 1),
        ):
            if value < least:
                raise UserError(f"{name} is {value}; it must be at least {least}")
        if not 0 < self.ratio < 1:
            raise UserError(
                f"ratio is {self.ratio}; it must be in (0, 1)", fix="without masked copies, use layout 'ntp'"
            )
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}; it must be in [0, 2**64)")
        if self.sampler == "official" and self.refresh == "per_epoch":
            raise UserError("refresh 'per_epoch' with sampler 'official': the official code draws its masks once")
        if self.layout == "ntp" and self.loss_on_original == "none":
            raise UserError("loss_on_original 'none' with layout 'ntp': nothing would be trained")
        if self.shares.random > 0 and self.ordinary is None:
            raise UserError(
                f"corruption is {self.corruption!r}, but ordinary is None",
                fix="give the ids of which tokens are drawn as ordinary",
            )

    @cached_property
    def shares(self) -> Corruption:
        """The corruption, read."""
        return Corruption.parse(self.corruption)


def config_of_data(prefix: str, sidecar: Sidecar, **fields: Any) -> SFTConfig:
    """Return the rows of a dataset: fields of `SFTConfig`, with its ids and those of which tokens are drawn.

    Raises:
        UserError: a field breaks its rule.
    """
    draws = Corruption.parse(fields.get("corruption", SFTConfig.corruption)).random > 0
    ids = {"mask_id": sidecar.tokenizer.mask_id, "pad_id": sidecar.tokenizer.pad_id or 0}
    return SFTConfig(**ids | fields, ordinary=ordinary_ids(prefix, sidecar) if draws else None)
