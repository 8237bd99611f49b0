"""Validation in bits per byte of text, which compares across tokenizers: `tokenizer.byte_lengths` of what is predicted."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from meap_megatron.indexed.sidecar import read_sidecar


@dataclass(frozen=True, kw_only=True, eq=False)
class TextBytes:
    """Bytes of every id of the data's tokenizer; 0 for special tokens."""

    inside: torch.Tensor
    """int32[V] after other tokens of its text."""
    first: torch.Tensor
    """int32[V] as the first token of a text: shorter where the tokenizer puts a space before it."""

    def ends_text(self) -> torch.Tensor | None:
        """Return bool[V], the ids after which a text begins; None if a first token is as long as any other."""
        return None if torch.equal(self.inside, self.first) else self.inside == 0

    def bits(
        self, losses: torch.Tensor, labels: torch.Tensor, loss_mask: torch.Tensor, opens: torch.Tensor | None
    ) -> torch.Tensor:
        """Return float32[2]: bits and bytes of the predicted text. Where a special token is predicted, neither counts.

        Args:
            losses: float[b, s], nats.
            labels: int64[b, s].
            loss_mask: float32[b, s]; positions of weight 0 are left out.
            opens: bool[b, s], labels that are the first token of a text; None: it does not matter.
        """
        ids = labels.clamp(0, len(self.inside) - 1)
        inside = self.inside.to(labels.device)[ids]
        sizes = inside if opens is None else torch.where(opens, self.first.to(labels.device)[ids], inside)
        counted = (loss_mask.reshape(labels.shape) > 0) & (inside > 0)
        nats = (losses.reshape(labels.shape).float() * counted).sum()
        return torch.stack([nats / math.log(2), (sizes * counted).sum().float()])


def text_bytes(prefixes: list[str]) -> TextBytes | None:
    """Return the bytes of the tokens of a run's datasets; None where no tokenizer was saved beside them (mock data)."""
    from tokenizers import Tokenizer

    from meap_megatron.tokenizer.byte_lengths import byte_lengths

    for prefix in prefixes:
        info = read_sidecar(prefix).tokenizer
        if info.folder is None:
            continue
        path = Path(prefix).parent / info.folder / "tokenizer.json"
        if not path.is_file():
            # All ranks must report the same fields: one that cannot read the tokenizer counts nothing.
            return TextBytes(inside=(nothing := torch.zeros(1, dtype=torch.int32)), first=nothing)
        special = (info.bos_id, info.eos_id, info.pad_id, info.mask_id)
        found = byte_lengths(Tokenizer.from_file(str(path)), special=special)
        return TextBytes(inside=torch.from_numpy(found.inside), first=torch.from_numpy(found.first))
    return None
