"""Tokenizers that this process has parsed: a tokenizer.json of 10 MB takes a third of a second each time."""

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT = 2
_kept: "OrderedDict[str, Tokenizer]" = OrderedDict()


def parsed(definition: str) -> "Tokenizer":
    """Return the tokenizer of a tokenizer.json that takes special tokens in a text as plain text; not to be changed."""
    from tokenizers import Tokenizer

    if definition not in _kept:
        keep(definition, Tokenizer.from_str(definition))
    _kept.move_to_end(definition)
    return _kept[definition]


def keep(definition: str, tokenizer: "Tokenizer") -> None:
    """Remember what a definition was written from, which nobody changes any more."""
    tokenizer.encode_special_tokens = True
    _kept[definition] = tokenizer
    while len(_kept) > KEPT:
        _kept.popitem(last=False)


def forget() -> None:
    """Let go of all of them: this process encodes nothing itself."""
    _kept.clear()


def vocabulary(definition: str) -> dict[str, int]:
    """Return token -> id of a tokenizer.json, added tokens included."""
    return parsed(definition).get_vocab(with_added_tokens=True)
