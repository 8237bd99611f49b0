"""Read a tokenizer from its files: a Hugging Face folder, a tokenizer.json, a SentencePiece model."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError, kind_of

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
EXTRA_SPECIAL = ("extra_special_tokens", "additional_special_tokens")
CHAT_TEMPLATE, CHAT_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
EXTRA_FILES = (CHAT_TEMPLATE, "generation_config.json")
RESERVING = re.compile(r".*_token_(id|ids|index)")
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", None)
"""Values of `tokenizer_class` that have no special tokens of their own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """What the files of a tokenizer say.

    Attributes:
        definition: text of the tokenizer.json.
        config: tokenizer_config.json over special_tokens_map.json; the roles are text or None.
        sentencepiece_model: the bytes of the model that `definition` was converted from, or None.
        extra_files: name -> content of further files that belong to the tokenizer.
        folder: the folder that `transformers` would load, or None for a file without a configuration beside it.
        added: text -> id of the tokens of added_tokens.json and of the configuration's `added_tokens_decoder`.
        reserved: ids that config.json or generation_config.json names, whether or not a token has them.
    """

    definition: str
    config: dict[str, Any]
    sentencepiece_model: bytes | None
    extra_files: dict[str, bytes]
    folder: Path | None
    added: dict[str, int]
    reserved: frozenset[int]

    @property
    def named(self) -> set[str]:
        """The text of all tokens that the configuration calls special, in a role or without one."""
        found = set()
        for name, value in self.config.items():
            if _names_special(name):
                values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
                found |= {text for text in values if isinstance(text, str)}
        return found

    @property
    def is_silent(self) -> bool:
        """Whether the configuration says nothing about special tokens, not even that there is none."""
        return not any(role in self.config for role in ROLES)


def read_tokenizer_files(path: Path) -> TokenizerFiles:
    """Read a tokenizer folder, a tokenizer.json or a SentencePiece model.

    Raises:
        UserError: it is none of them, or a file cannot be read.
    """
    definition, config, model = _read_folder(path) if path.is_dir() else _read_file(path)
    folder = path if path.is_dir() else path.parent if path.name == "tokenizer.json" else None
    beside = {} if folder is None else _added_tokens(folder)
    near = path if path.is_dir() else path.parent
    extra = EXTRA_FILES if config or folder else ()
    extra_files = {name: (near / name).read_bytes() for name in extra if (near / name).is_file()}
    if CHAT_TEMPLATE in extra_files:
        _read_template(near / CHAT_TEMPLATE)
    templates = {} if folder is None else _named_templates(folder)
    if templates:
        extra_files.pop(CHAT_TEMPLATE, None)
    return TokenizerFiles(
        definition=definition,
        config=config | templates,
        sentencepiece_model=model,
        extra_files=extra_files,
        folder=folder if config or beside else None,
        added={**beside, **_decoder(config)},
        reserved=frozenset() if folder is None else frozenset(_reserved(folder)),
    )


def _read_folder(folder: Path) -> tuple[str, dict[str, Any], bytes | None]:
    """Return (tokenizer.json text, config, SentencePiece model or None) of a tokenizer folder."""
    if (folder / "tokenizer.json").is_file():
        return _read_file(folder / "tokenizer.json")
    models = sorted(path for path in folder.iterdir() if _is_sentencepiece(path))
    if len(models) == 1:
        return _read_sentencepiece(models[0], _config_beside(folder))
    if (folder / "vocab.json").is_file() or (folder / "vocab.txt").is_file():
        try:
            loaded = load_with_transformers(folder)
            roles = {role: getattr(loaded, role, None) for role in ROLES}
            return loaded.backend_tokenizer.to_str(), {**_config_beside(folder), **roles}, None
        except Exception as error:
            raise UserError(f"tokenizer {folder} cannot be loaded by transformers: {error}") from error
    raise UserError(
        f"tokenizer {folder} holds no tokenizer.json, no single SentencePiece .model and no vocab.json; "
        f"found {sorted(path.name for path in folder.iterdir())[:8]}"
    )


def _read_file(path: Path) -> tuple[str, dict[str, Any], bytes | None]:
    if _is_sentencepiece(path):
        return _read_sentencepiece(path, {})
    config = _config_beside(path.parent) if path.name == "tokenizer.json" else {}
    try:
        return path.read_text(encoding="utf-8"), config, None
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {path} cannot be read as text ({error})") from None


def _read_sentencepiece(path: Path, config: dict[str, Any]) -> tuple[str, dict[str, Any], bytes]:
    from meap_megatron.tokenizer.sentencepiece import convert_sentencepiece

    model = path.read_bytes()
    # As transformers has it: such a model opens a text with BOS unless its configuration says otherwise.
    definition, roles = convert_sentencepiece(model, source=path, add_bos=config.get("add_bos_token") is not False)
    return definition, {**roles, **config}, model


def _is_sentencepiece(path: Path) -> bool:
    # "tokenizer.model", and with a version behind it, as in mistral-common: "tokenizer.model.v3".
    return (
        ".model" in path.name and not path.name.endswith((".json", ".tiktoken", "tiktoken.model")) and path.is_file()
    )


def load_with_transformers(folder: Path) -> Any:
    """Return what `AutoTokenizer` makes of a folder; importing it takes seconds, so nobody asks without a need."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    finally:
        logging.set_verbosity(level)


def _config_beside(folder: Path) -> dict[str, Any]:
    """Merge special_tokens_map.json and tokenizer_config.json of a folder; token objects become their text."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        merged |= _read_json(folder / name)
    return {name: _as_text(value) if _names_special(name) else value for name, value in merged.items()}


def _named_templates(folder: Path) -> dict[str, Any]:
    """Return the chat templates of a folder that has several in files of their own, in the form of a configuration.

    As transformers has it, these files count instead of what the configuration says.
    """
    named = {path.name.removesuffix(".jinja"): path for path in sorted((folder / CHAT_TEMPLATES).glob("*.jinja"))}
    if named and (folder / CHAT_TEMPLATE).is_file():
        named = {"default": folder / CHAT_TEMPLATE, **named}
    found = [{"name": name, "template": _read_template(path)} for name, path in named.items()]
    return {"chat_template": found} if found else {}


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error})", fix="save it as UTF-8") from None


def _names_special(key: str) -> bool:
    return key.endswith("_token") or key in EXTRA_SPECIAL


def _as_text(value: Any) -> Any:
    """Return tokens that a file writes as objects as their text, on their own, in a list, or with names."""
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, dict):
        return value["content"] if "content" in value else {name: _as_text(item) for name, item in value.items()}
    return value


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; {} where there is no file.

    Raises:
        UserError: the file holds something else.
    """
    with contextlib.suppress(FileNotFoundError):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} contains {kind_of(content)}, expected a JSON object")
        return content
    return {}


def _added_tokens(folder: Path) -> dict[str, int]:
    return {text: index for text, index in _read_json(folder / "added_tokens.json").items() if isinstance(index, int)}


def _decoder(config: dict[str, Any]) -> dict[str, int]:
    found = {}
    for index, token in (config.get("added_tokens_decoder") or {}).items():
        if isinstance(text := _as_text(token), str):
            found[text] = int(index)
    return found


def _reserved(folder: Path) -> Iterator[int]:
    """Give every id that a model's configuration names (`pad_token_id`, `image_token_index`, lists of end tokens)."""
    pending: list[Any] = [_read_json(folder / "config.json"), _read_json(folder / "generation_config.json")]
    while pending:
        for name, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            elif RESERVING.fullmatch(name):
                values = value if isinstance(value, list) else [value]
                yield from (index for index in values if type(index) is int and index >= 0)
