"""How many bytes of text a token is: what turns a loss per token into bits per byte, which compares across tokenizers.

The bytes are those that the token decodes to, in UTF-8: a token of a byte-level tokenizer may be a part of a character,
and a SentencePiece-type tokenizer puts a space before a text that is not in the text. Special tokens are not text.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ANCHOR = "a"
"""A token before the one that is measured, so that it is not the first of its text."""
BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ByteLengths:
    """Bytes of every id of a tokenizer: int32[vocab_size] each, 0 for special tokens and for ids without a token."""

    inside: NDArray[np.int32]
    """After other tokens of the same text."""
    first: NDArray[np.int32]
    """As the first token of a text."""

    @property
    def special(self) -> NDArray[np.bool_]:
        """bool[vocab_size]: ids that are not text; what follows one begins a text."""
        return self.inside == 0

    def count(self, ids: NDArray[np.integer], *, opens: bool) -> NDArray[np.int64]:
        """Return int64[n], the bytes of each of the ids of a text.

        Args:
            ids: int[n].
            opens: whether the first of them opens a text; an id after a special token always does.
        """
        begins = np.concatenate([[opens], self.special[ids[:-1]]]) if len(ids) else np.zeros(0, dtype=bool)
        return np.where(begins, self.first[ids], self.inside[ids]).astype(np.int64)


def byte_lengths(tokenizer: "Tokenizer", *, special: Iterable[int | None] = ()) -> ByteLengths:
    """Measure every token of a tokenizer.

    Args:
        tokenizer: one whose decoder joins the texts of its tokens (byte-level BPE, SentencePiece types, WordPiece).
        special: further ids that are not text, such as an EOS that its tokenizer.json does not call special.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    decoder, alphabet = tokenizer.decoder, set(ByteLevel.alphabet())
    byte_level, fallback = "ByteLevel" in repr(decoder), "ByteFallback" in repr(decoder)
    join = " ".join if decoder is None else decoder.decode
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    table = np.zeros((2, max(vocabulary.values()) + 1), dtype=np.int32)
    for token, number in vocabulary.items():
        if number in added:
            table[:, number] = 0 if added[number].special else len(added[number].content.encode())
        elif byte_level:
            # A character for every byte.
            table[:, number] = len(token) if alphabet.issuperset(token) else len(token.encode())
        elif fallback and BYTE_TOKEN.fullmatch(token):
            table[:, number] = 1
        else:
            table[:, number] = len(join([ANCHOR, token]).encode()) - len(ANCHOR), len(join([token]).encode())
    table[:, [number for number in special if number is not None]] = 0
    return ByteLengths(inside=table[0], first=table[1])
