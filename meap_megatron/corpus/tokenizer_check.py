"""A saved tokenizer beside the one it was made from, both as `transformers` loads them."""

from collections.abc import Iterator
from pathlib import Path

from meap_megatron.corpus.tokenizer_files import ROLES, load_with_transformers

LISTED = 4


def differences(original: Path, saved: Path) -> Iterator[str]:
    """Give what the extended tokenizer in `saved` does otherwise than the one in `original`, [MASK] apart.

    Args:
        original: folder with the tokenizer as it came.
        saved: folder that `save_tokenizer` wrote.
    """
    try:
        before = load_with_transformers(original)
    except Exception:
        return  # a class that transformers does not have: nobody else can say what its ids are
    after = load_with_transformers(saved)
    ids = after.get_vocab()
    moved = {token: (index, ids.get(token)) for token, index in before.get_vocab().items() if ids.get(token) != index}
    for token, (index, other) in sorted(moved.items(), key=lambda item: item[1][0])[:LISTED]:
        yield f"the token {token!r} has id {other}, it was {index}"
    if len(moved) > LISTED:
        yield f"{len(moved) - LISTED:,} more tokens have other ids"
    for role in ROLES:
        if (found := getattr(after, role)) != (was := getattr(before, role)):
            yield f"{role} is {found!r}, it was {was!r}"
    if before.chat_template != after.chat_template:
        yield "the chat template is another one"
    if before("a").input_ids != after("a").input_ids:
        yield f"'a' has the ids {after('a').input_ids}, it had {before('a').input_ids}"
