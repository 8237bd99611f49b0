"""The row of [MASK]: a new token's embedding and head, the same on every layout because it is made before any sharding."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from meap_megatron.errors import UserError

BLOCK = 8192  # rows read at once


@dataclass(frozen=True, kw_only=True)
class MaskRow:
    """How the row of [MASK] is made.

    Attributes:
        mask_id: the row.
        known: ids in use before, [MASK] not among them; padding rows take no part in means.
        kind: "mean" of the known rows, "random" normal numbers with the known rows' mean and deviation, or "token".
        token_id: the row that "token" copies.
        seed: of "random".
    """

    mask_id: int
    known: int
    kind: str
    token_id: int | None = None
    seed: int = 1234

    def make(self, read: Callable[[int, int], torch.Tensor], *, table: int) -> torch.Tensor:
        """Return the row [h] for one table, in its type.

        Args:
            read: returns rows [first, last) of the table, [n, h].
            table: 0 for the embedding, 1 for the head, so that random rows differ.
        """
        if self.kind == "token":
            assert self.token_id is not None
            return read(self.token_id, self.token_id + 1)[0]
        total: torch.Tensor | None = None
        squares: torch.Tensor | None = None
        count = 0
        for start in range(0, self.known, BLOCK):
            rows = read(start, min(start + BLOCK, self.known))
            dtype = rows.dtype
            kept = rows.double()
            if start <= self.mask_id < start + len(rows):
                kept = torch.cat([kept[: self.mask_id - start], kept[self.mask_id - start + 1 :]])
            total = kept.sum(0) if total is None else total + kept.sum(0)
            squares = kept.square().sum(0) if squares is None else squares + kept.square().sum(0)
            count += len(kept)
        assert total is not None and squares is not None
        mean = total / count
        if self.kind == "mean":
            return mean.to(dtype)
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        generator = torch.Generator().manual_seed(2 * self.seed + table)
        return (mean + deviation * torch.randn(len(mean), generator=generator, dtype=torch.float64)).to(dtype)


def parse_init(text: str) -> tuple[str, str | None]:
    """Split --mask-token-init into its kind and, for token:X, the token X.

    Raises:
        UserError: it is none of mean, random, token:X.
    """
    kind, colon, token = text.partition(":")
    if kind in ("mean", "random") and not colon:
        return kind, None
    if kind == "token" and token:
        return kind, token
    raise UserError(f"--mask-token-init {text} is not one of mean, random, token:X (for example token:<unk>)")
