"""Do two tokenizers give a token the same id? One that only adds tokens to another agrees with it."""

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path

from meap_megatron.tokenizer.load import MASK_TOKEN, load_tokenizer
from meap_megatron.tokenizer.parsed import vocabulary

SHOWN = 3  # tokens in a message


def ids_of(source: Path, *, mask_token: str = MASK_TOKEN) -> dict[str, int]:
    """Return token -> id of a tokenizer, the mask token included.

    Raises:
        UserError: it is not a tokenizer.
    """
    return vocabulary(load_tokenizer(source, mask_token=mask_token).definition)


def difference(ids: Mapping[str, int], others: Mapping[str, int], *, here: str, there: str) -> str | None:
    """Return how many tokens of one tokenizer have another id in a second one, and the first of them; None if none has.

    Args:
        ids: token -> id, all of which the second must have.
        others: token -> id of the second, which may have more.
        here: where the first is from, as in "in the model".
    """
    moved = [text for text, index in sorted(ids.items(), key=itemgetter(1)) if others.get(text) != index]
    if not moved:
        return None
    listed = ", ".join(
        f"{text!r} is {ids[text]} {here}, {others[text] if text in others else 'absent'} {there}"
        for text in moved[:SHOWN]
    )
    return f"{len(moved):,} of {len(ids):,} tokens have another id: {listed}"
