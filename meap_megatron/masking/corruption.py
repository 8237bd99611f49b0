"""What takes the place of a chosen token: [MASK], a random ordinary token, or itself.

    mask              [MASK] (the paper)
    random            a uniformly drawn ordinary token: no special one, never [MASK]
    mix               BERT's shares: 80 % [MASK], 10 % random, 10 % kept
    mix:0.5,0.5,0     shares of [MASK], random and kept, which add up to 1

A position counts as changed if it was given [MASK] or a drawn token, also where the draw was the token itself; kept
positions are not changed. The words come from a stream of the sample of their own: first one for each position, in ascending
order, to choose between the shares (none where one share is 1), then one token after the other (`below`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.masking.philox import WORD, below

NAMES = ("mask", "random", "mix")
KEPT = -1
"""In place of a token id: the position keeps its token."""


@dataclass(frozen=True)
class Corruption:
    """Shares of the chosen positions; csrc/corruption/replace.hpp computes the same tokens."""

    mask: float = 1.0
    random: float = 0.0
    kept: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Corruption":
        """Read a setting.

        Raises:
            UserError: another form, or shares that are negative or do not add up to 1.
        """
        name, _, rest = text.partition(":")
        if name not in NAMES or (rest and name != "mix"):
            raise UserError(f"corruption is {text!r}; it is mask, random, mix, or mix:MASK,RANDOM,KEPT")
        if name != "mix":
            return cls() if name == "mask" else cls(mask=0.0, random=1.0)
        try:
            shares = [float(share) for share in (rest or "0.8,0.1,0.1").split(",")]
        except ValueError:
            shares = []
        if len(shares) != 3 or not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
            raise UserError(
                f"corruption is {text!r}; mix has three shares of [MASK], random and kept tokens that add up to 1, "
                "as in mix:0.8,0.1,0.1"
            )
        return cls(*shares)

    @property
    def mask_below(self) -> int:
        """Words below this one give [MASK]; 2**32 means all of them."""
        return round(self.mask * WORD)

    @property
    def random_below(self) -> int:
        """Words from `mask_below` to below this one give a random token, all others keep it."""
        return WORD if self.kept == 0 else round((self.mask + self.random) * WORD)


@dataclass(frozen=True, kw_only=True)
class OrdinaryIds:
    """The ids of which random tokens are drawn: 0..vocab_size-1 without some."""

    vocab_size: int
    excluded: tuple[int, ...]
    """Ascending: special tokens, [MASK], and ids without a token."""

    @classmethod
    def without(cls, vocab_size: int, excluded: Iterable[int]) -> "OrdinaryIds":
        """Return the ids below vocab_size that are not excluded.

        Raises:
            UserError: none is left.
        """
        left_out = tuple(sorted({i for i in excluded if 0 <= i < vocab_size}))
        if len(left_out) >= vocab_size:
            raise UserError(f"all {vocab_size} ids of the vocabulary are special: no random token can be drawn")
        return cls(vocab_size=vocab_size, excluded=left_out)

    @property
    def count(self) -> int:
        """How many ids may be drawn."""
        return self.vocab_size - len(self.excluded)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """excluded[i] - i: how many ordinary ids lie below each excluded one; ascending."""
        return tuple(id_ - number for number, id_ in enumerate(self.excluded))

    def nth(self, number: int) -> int:
        """Return the ordinary id with this number, from 0.

        Given vocab_size 6 without 0 and 3, the ordinary ids are 1, 2, 4, 5, and nth(2) is 4.
        """
        return number + bisect_right(self.offsets, number)


def replacements(
    words: Iterator[int], num_positions: int, *, corruption: Corruption, mask_id: int, ordinary: OrdinaryIds | None
) -> NDArray[np.int64]:
    """Return int64[num_positions]: the id for each chosen position in ascending order, or `KEPT`.

    Args:
        words: of the sample's stream for replacements.
        mask_id: id of [MASK].
        ordinary: what random tokens are drawn of; not needed without them.
    """
    is_mixed = corruption.mask_below not in (0, WORD) or corruption.random_below != WORD
    shares = [next(words) if is_mixed else 0 for _ in range(num_positions)]
    ids = np.full(num_positions, KEPT, dtype=np.int64)
    for position, share in enumerate(shares):
        if share < corruption.mask_below:
            ids[position] = mask_id
        elif share < corruption.random_below:
            assert ordinary is not None, "MaskConfig requires it"
            ids[position] = ordinary.nth(below(words, ordinary.count))
    return ids
