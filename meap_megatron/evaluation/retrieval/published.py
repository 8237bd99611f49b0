"""Haystack and needle as the published code makes them (Fu et al.'s form of Kamradt's test), byte for byte.

It encodes texts with the tokenizer's special tokens and decodes them with these. Where a tokenizer opens a text with BOS,
the text `<s>` is before the haystack and before the needle and takes room; where one marks words by the space before them
(Llama-2), the spaces behind `<s>` differ from those of the essays.
"""

from functools import lru_cache
from pathlib import Path

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_length import Measure
from meap_megatron.evaluation.retrieval.haystack import place_of, read_essays


def encode(measure: Measure, text: str) -> list[int]:
    """Return the ids of a text with the special tokens that the tokenizer adds by itself."""
    return list(measure.tokenizer(text, verbose=False).input_ids)


@lru_cache(maxsize=2)
def essays_for(measure: Measure, essays: Path, *, longest: int, begin: tuple[int, int]) -> tuple[str, list[int]]:
    """Return the essays one behind the other, as often as `longest` tokens need, and their ids.

    `begin` (v, n): begin v/n further on, and end with what is before.
    """
    joined = "".join(read_essays(essays))
    start = len(joined) * begin[0] // begin[1]
    text = ""
    ids: list[int] = []
    while len(ids) < longest:
        text += joined[start:] + joined[:start]
        ids = encode(measure, text)
    return text, ids


@lru_cache(maxsize=2)
def haystack(measure: Measure, essays: Path, *, length: int, longest: int, begin: tuple[int, int]) -> list[int]:
    """Return the ids of the essays cut to `length` tokens, decoded and encoded once more."""
    text, ids = essays_for(measure, essays, longest=longest, begin=begin)
    return encode(measure, measure.tokenizer.decode(ids[:length]) if len(ids) > length else text)


def context(measure: Measure, ids: list[int], needle: str, *, room: int, depth: float | None) -> str:
    """Return the haystack as text with the needle at its depth.

    Args:
        ids: of `haystack`.
        needle: with the newlines around it.
        room: tokens of haystack and needle together.
        depth: percent of the haystack before the needle, moved back behind a full stop; None hides nothing.

    Raises:
        UserError: there is no room for a haystack.
    """
    hidden = encode(measure, needle)
    if room <= len(hidden):
        raise UserError(
            f"no room for a haystack: the published test keeps 200 tokens free, and the needle takes {len(hidden)}",
            fix=f"use lengths from {2 ** (200 + len(hidden)).bit_length()} on",
        )
    ids = ids[: room - len(hidden)]
    if depth is None:
        return str(measure.tokenizer.decode(ids))
    place = place_of(measure, ids, depth)
    return str(measure.tokenizer.decode(ids[:place] + hidden + ids[place:]))
