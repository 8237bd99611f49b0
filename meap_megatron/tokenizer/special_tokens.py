"""Which tokens of a tokenizer are special, and the ids of tokens that only its configuration names.

`transformers` adds tokens of added_tokens.json, and special tokens that tokenizer_config.json names, behind the
vocabulary of tokenizer.json, and some of its classes have special tokens of their own. Where a configuration makes that
possible, `transformers` itself is asked; else it is not imported, which takes seconds.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap_megatron.errors import UserError
from meap_megatron.tokenizer.files import GENERIC_CLASSES, ROLES, TokenizerFiles, load_with_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Names by which a bare tokenizer.json, which does not say which token is which, is understood.
USUAL_NAMES = {
    "bos_token": (
        "<s>",
        "<bos>",
        "<|begin_of_text|>",
        "<|bos|>",
        "[BOS]",
        "<|startoftext|>",
        "<｜begin▁of▁sentence｜>",
    ),
    "eos_token": ("</s>", "<eos>", "<|end_of_text|>", "<|eos|>", "[EOS]", "<|endoftext|>", "<｜end▁of▁sentence｜>"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>"),
    "unk_token": (),
}


def complete(tokenizer: "Tokenizer", files: TokenizerFiles, *, source: Path) -> dict[str, str | None]:
    """Add the tokens that only the configuration names, with the ids that `transformers` gives them.

    Args:
        tokenizer: the parsed tokenizer.json; tokens are added to it.
        source: what the user named, for messages.

    Returns:
        The text of the BOS, EOS, padding and unknown token, each None where there is none.

    Raises:
        UserError: a token cannot get the id that it has in `transformers`.
    """
    absent = sorted(text for text in files.named if tokenizer.token_to_id(text) is None)
    moved = {text: index for text, index in files.added.items() if tokenizer.token_to_id(text) != index}
    unstated = [role for role in ROLES if role not in files.config]
    loaded = None
    if files.folder is not None and (absent or moved or _class_has_tokens(files, unstated)):
        try:
            loaded = load_with_transformers(files.folder)
        except Exception as error:
            if absent or moved:
                names = ", ".join(map(repr, [*absent, *moved][:4]))
                raise UserError(
                    f"tokenizer {source}: the tokens {names} are not in its tokenizer.json with the ids of its "
                    f"configuration, and transformers cannot load it ({error})",
                    fix="save it again with save_pretrained",
                ) from None
    if loaded is not None:
        _adopt(tokenizer, loaded, source=source)
        return {role: getattr(loaded, role, None) for role in ROLES}
    roles: dict[str, str | None] = {role: files.config.get(role) for role in ROLES}
    if files.is_silent:
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        roles = {role: next((name for name in USUAL_NAMES[role] if name in special), None) for role in ROLES}
    return {
        role: None if text is None or tokenizer.token_to_id(text) is None else text for role, text in roles.items()
    }


def _class_has_tokens(files: TokenizerFiles, unstated: list[str]) -> bool:
    """Tell whether the class that transformers takes may fill in a role that the configuration leaves open.

    It goes by `tokenizer_class`, and for some types of models by config.json whatever that says.
    """
    has_class = files.config.get("tokenizer_class") not in GENERIC_CLASSES
    return bool(unstated) and (has_class or (files.folder is not None and (files.folder / "config.json").is_file()))


def _adopt(tokenizer: "Tokenizer", loaded: Any, *, source: Path) -> None:
    """Add the tokens that `transformers` has and the tokenizer.json has not.

    Raises:
        UserError: an id would differ.
    """
    for index, token in sorted(loaded.backend_tokenizer.get_added_tokens_decoder().items()):
        if tokenizer.token_to_id(token.content) is None:
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if (found := tokenizer.token_to_id(token.content)) != index:
            raise UserError(
                f"tokenizer {source}: the token {token.content!r} has id {index} in transformers and {found} in "
                f"tokenizer.json",
                fix="save the tokenizer again with save_pretrained",
            )


def add_mask(tokenizer: "Tokenizer", mask_token: str, *, reserved: frozenset[int], source: Path) -> "Tokenizer":
    """Return a tokenizer with the mask token: the one it has, or a new one behind all ids in use.

    Args:
        tokenizer: changed, unless its ids have holes.
        reserved: ids that are in use though no token has them.
        source: what the user named, for messages.

    Raises:
        UserError: the tokenizer takes no further token.
    """
    from tokenizers import AddedToken, Tokenizer

    taken = set(tokenizer.get_vocab(with_added_tokens=True).values())
    added = AddedToken(mask_token, special=True, normalized=False)
    if tokenizer.token_to_id(mask_token) is None:
        while (following := _next_id(tokenizer)) in reserved and following not in taken:
            tokenizer.add_special_tokens([AddedToken(f"<|reserved_id_{following}|>", special=True, normalized=False)])
        if following in taken:
            # Its ids have holes. A token gets an id of its own only as a part of the vocabulary itself.
            content = json.loads(tokenizer.to_str())
            if not isinstance(content["model"].get("vocab"), dict):
                raise UserError(
                    f"tokenizer {source}: {mask_token!r} would get id {following}, which is taken",
                    fix="add the token to the tokenizer yourself and try again",
                )
            content["model"]["vocab"][mask_token] = max(taken | reserved) + 1
            tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([added])
    return tokenizer


def _next_id(tokenizer: "Tokenizer") -> int:
    """Return the id that the library gives to the next added token."""
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    return max([size, *(index + 1 for index in tokenizer.get_added_tokens_decoder())])
