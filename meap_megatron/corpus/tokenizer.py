"""Load any tokenizer, add `[MASK]` if it is absent, save the extended tokenizer beside the data.

Text is encoded without the tokenizer's own template, and special tokens inside the text are plain text: a document
that contains the characters `</s>` or `[MASK]` never gives their ids. BOS and EOS are added by the caller alone, so
that a BOS is never doubled.

The extended tokenizer is a folder that `transformers.AutoTokenizer` loads. `transformers` itself is imported only for
folders that have neither a tokenizer.json nor a SentencePiece model (it takes seconds).
"""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap_megatron.corpus.sidecar import TokenizerInfo
from meap_megatron.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MASK_TOKEN = "[MASK]"
# Names by which a bare tokenizer.json, which does not say which token is which, is understood.
BOS_NAMES = ("<s>", "<bos>", "<|begin_of_text|>", "<|bos|>", "[BOS]", "<|startoftext|>", "<｜begin▁of▁sentence｜>")
EOS_NAMES = ("</s>", "<eos>", "<|end_of_text|>", "<|eos|>", "[EOS]", "<|endoftext|>", "<｜end▁of▁sentence｜>")
PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>")
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
EXTRA_FILES = ("chat_template.jinja", "generation_config.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusTokenizer:
    """A tokenizer that holds the mask token, ready to be saved and to be handed to workers.

    Attributes:
        info: identity and special ids; `folder` is None until it is saved.
        definition: text of the extended tokenizer.json.
        config: content of tokenizer_config.json.
        extra_files: name -> content of further files that belong to the tokenizer.
        special_ids: ids that no text may produce.
        sentencepiece_model: the bytes of the SentencePiece model it was converted from, or None.
    """

    info: TokenizerInfo
    definition: str
    config: dict[str, Any]
    extra_files: dict[str, bytes]
    special_ids: tuple[int, ...]
    sentencepiece_model: bytes | None = None

    @property
    def bos_token(self) -> str | None:
        """Text of the token that opens a document."""
        return self.config.get("bos_token")


def load_tokenizer(
    source: str | Path,
    *,
    mask_token: str = MASK_TOKEN,
    bos_token: str | None = None,
    eos_token: str | None = None,
) -> CorpusTokenizer:
    """Load a tokenizer folder, a tokenizer.json or a SentencePiece model, and extend it by the mask token.

    Args:
        source: folder or file; nothing is downloaded.
        mask_token: text of the mask token; its id is the next free one unless the tokenizer has it already.
        bos_token: text of the BOS token, instead of what the tokenizer says.
        eos_token: text of the EOS token, instead of what the tokenizer says.

    Raises:
        UserError: nothing is there, it is no tokenizer, or a named token is not in its vocabulary.
    """
    from tokenizers import AddedToken

    path = Path(source)
    if not path.exists():
        raise UserError(
            f"tokenizer {source} does not exist; give a tokenizer folder, a tokenizer.json or a SentencePiece .model "
            f"(nothing is downloaded)"
        )
    definition, config, model = _read_folder(path) if path.is_dir() else _read_file(path)
    tokenizer = _parse(definition, path)
    roles = _roles(tokenizer, config, bos_token=bos_token, eos_token=eos_token, source=path)

    present = tokenizer.token_to_id(mask_token)
    taken = set(tokenizer.get_vocab(with_added_tokens=True).values())
    tokenizer.add_special_tokens([AddedToken(mask_token, special=True, normalized=False)])
    mask_id = tokenizer.token_to_id(mask_token)
    if mask_id is None or (present is None and mask_id in taken):
        raise UserError(
            f"tokenizer {source}: its ids have holes, so that {mask_token!r} would get id {mask_id}, which is taken; "
            f"add the token to the tokenizer yourself and try again"
        )
    ids = {role: None if token is None else tokenizer.token_to_id(token) for role, token in roles.items()}
    special = {token_id for role, token_id in ids.items() if token_id is not None and role != "unk_token"}
    special |= {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if mask_id in (ids["bos_token"], ids["eos_token"], ids["pad_token"], ids["unk_token"]):
        raise UserError(f"tokenizer {source}: the mask token {mask_token!r} is its BOS, EOS, padding or unknown token")
    special.discard(-1 if ids["unk_token"] is None else ids["unk_token"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    extended = tokenizer.to_str()
    info = TokenizerInfo(
        fingerprint=_fingerprint(extended, ids, mask_id),
        folder=None,
        vocab_size=max(taken | {mask_id}) + 1,
        bos_id=ids["bos_token"],
        eos_id=ids["eos_token"],
        pad_id=ids["pad_token"],
        mask_id=mask_id,
        mask_token=mask_token,
    )
    folder = path if path.is_dir() else path.parent
    extra = {name: (folder / name).read_bytes() for name in EXTRA_FILES if config and (folder / name).is_file()}
    return CorpusTokenizer(
        info=info,
        definition=extended,
        config=_saved_config(config, roles, mask_token),
        extra_files=extra,
        special_ids=tuple(sorted(special | {mask_id})),
        sentencepiece_model=model,
    )


def save_tokenizer(tokenizer: CorpusTokenizer, folder: Path) -> None:
    """Write the extended tokenizer as a folder that `AutoTokenizer.from_pretrained` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
    config = json.dumps(tokenizer.config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    for name, content in tokenizer.extra_files.items():
        (folder / name).write_bytes(content)


def _read_folder(folder: Path) -> tuple[str, dict[str, Any], bytes | None]:
    """Return (tokenizer.json text, config, SentencePiece model or None) of a tokenizer folder."""
    if (folder / "tokenizer.json").is_file():
        return _read_file(folder / "tokenizer.json")
    models = sorted(path for path in folder.iterdir() if _is_sentencepiece(path))
    if len(models) == 1:
        definition, guessed, model = _read_file(models[0])
        return definition, {**guessed, **_config_beside(folder)}, model
    if (folder / "vocab.json").is_file() or (folder / "vocab.txt").is_file():
        from transformers import AutoTokenizer

        try:
            slow = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            roles = {role: token for role in ROLES if (token := getattr(slow, role, None)) is not None}
            return slow.backend_tokenizer.to_str(), {**_config_beside(folder), **roles}, None
        except Exception as error:
            raise UserError(f"tokenizer {folder} cannot be loaded by transformers: {error}") from error
    raise UserError(
        f"tokenizer {folder} holds no tokenizer.json, no single SentencePiece .model and no vocab.json; "
        f"found {sorted(path.name for path in folder.iterdir())[:8]}"
    )


def _read_file(path: Path) -> tuple[str, dict[str, Any], bytes | None]:
    if _is_sentencepiece(path):
        from meap_megatron.corpus.sentencepiece import convert_sentencepiece

        model = path.read_bytes()
        definition, roles = convert_sentencepiece(model, source=path)
        return definition, dict(roles), model
    config = _config_beside(path.parent) if path.name == "tokenizer.json" else {}
    try:
        return path.read_text(encoding="utf-8"), config, None
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {path} cannot be read as text ({error})") from None


def _is_sentencepiece(path: Path) -> bool:
    # "tokenizer.model", and with a version behind it, as in mistral-common: "tokenizer.model.v3".
    return (
        ".model" in path.name and not path.name.endswith((".json", ".tiktoken", "tiktoken.model")) and path.is_file()
    )


def _config_beside(folder: Path) -> dict[str, Any]:
    """Merge special_tokens_map.json and tokenizer_config.json of a folder; token objects become their text."""
    merged: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        with contextlib.suppress(FileNotFoundError):
            try:
                merged |= json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{folder / name} is not JSON: {error}") from None
    for role in ROLES:
        if isinstance(merged.get(role), dict):
            merged[role] = merged[role].get("content")
    return merged


def _parse(definition: str, path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(definition)
    except Exception as error:
        raise UserError(f"tokenizer {path} is not a tokenizer.json of Hugging Face tokenizers: {error}") from None


def _roles(
    tokenizer: "Tokenizer", config: dict[str, Any], *, bos_token: str | None, eos_token: str | None, source: Path
) -> dict[str, str | None]:
    """Decide which token is BOS, EOS, padding, unknown: the caller's word, then the config, then the usual names."""
    names = {"bos_token": BOS_NAMES, "eos_token": EOS_NAMES, "pad_token": PAD_NAMES, "unk_token": ()}
    roles: dict[str, str | None] = {}
    for role, usual in names.items():
        # "bos_token": null in the config is a statement (Qwen), an absent key is not.
        guess = next((name for name in usual if tokenizer.token_to_id(name) is not None), None)
        roles[role] = config[role] if role in config else guess
    roles["unk_token"] = roles["unk_token"] or getattr(tokenizer.model, "unk_token", None)
    for role, option, token in (("bos_token", "--bos-token", bos_token), ("eos_token", "--eos-token", eos_token)):
        if token is not None:
            if tokenizer.token_to_id(token) is None:
                raise UserError(f"{option} {token!r} is not in the vocabulary of tokenizer {source}")
            roles[role] = token
    return {
        role: token if token is not None and tokenizer.token_to_id(token) is not None else None
        for role, token in roles.items()
    }


def _saved_config(config: dict[str, Any], roles: dict[str, str | None], mask_token: str) -> dict[str, Any]:
    """Return the tokenizer_config.json of the extended tokenizer."""
    # tokenizer.json is the one definition of the tokenizer. A class name such as LlamaTokenizer would make
    # transformers 5 rebuild normaliser and pre-tokenizer by its own rules, and the ids could differ from the data's.
    dropped = {"added_tokens_decoder", "tokenizer_file", "name_or_path", "auto_map", "additional_special_tokens"}
    kept = {name: value for name, value in config.items() if name not in dropped and value is not None}
    named = {role: token for role, token in roles.items() if token is not None}
    return {**kept, **named, "mask_token": mask_token, "tokenizer_class": "PreTrainedTokenizerFast"}


def _fingerprint(definition: str, ids: dict[str, int | None], mask_id: int) -> str:
    """Hash what decides the ids of a text: not the template, not the decoder, not the version of the file."""
    content = json.loads(definition, object_pairs_hook=_stated)
    decisive = {name: content.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    special = {**{role: ids[role] for role in ("bos_token", "eos_token")}, "mask_token": mask_id}
    text = json.dumps([decisive, special], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _stated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object without absent values: a later library may write a new option as null or false."""
    return {name: value for name, value in pairs if value is not None and value is not False}
