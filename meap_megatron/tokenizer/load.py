"""Load any tokenizer, add `[MASK]` if it is absent, save the extended tokenizer beside the data.

Text is encoded without the tokenizer's own template, and special tokens inside the text are plain text: a document
that contains the characters `</s>` or `[MASK]` never gives their ids. BOS and EOS are added by the caller alone, so
that a BOS is never doubled.

The extended tokenizer is a folder that `transformers.AutoTokenizer` loads. `transformers` itself is imported only for
folders that have neither a tokenizer.json nor a SentencePiece model (it takes seconds).
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meap_megatron.errors import UserError, refuse_pointer
from meap_megatron.indexed.sidecar import TokenizerInfo
from meap_megatron.tokenizer.files import read_tokenizer_files
from meap_megatron.tokenizer.parsed import keep
from meap_megatron.tokenizer.special_tokens import add_mask, complete

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MASK_TOKEN = "[MASK]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusTokenizer:
    """A tokenizer that holds the mask token, ready to be saved and to be handed to workers.

    Attributes:
        info: identity and special ids; `folder` is None until it is saved.
        definition: text of the extended tokenizer.json.
        config: content of tokenizer_config.json.
        extra_files: name -> content of further files that belong to the tokenizer.
        special_ids: ids that no text may produce.
        adds_bos: whether documents open with BOS unless the user says otherwise: the tokenizer by itself opens a text
            with it, or the caller named the token.
        sentencepiece_model: the bytes of the SentencePiece model it was converted from, or None.
    """

    info: TokenizerInfo
    definition: str
    config: dict[str, Any]
    extra_files: dict[str, bytes]
    special_ids: tuple[int, ...]
    adds_bos: bool
    sentencepiece_model: bytes | None = None

    @property
    def bos_token(self) -> str | None:
        """Text of the BOS token, whether or not documents open with it."""
        return self.config.get("bos_token")


def load_tokenizer(
    source: str | Path,
    *,
    mask_token: str = MASK_TOKEN,
    bos_token: str | None = None,
    eos_token: str | None = None,
) -> CorpusTokenizer:
    """Load a tokenizer folder, a tokenizer.json or a SentencePiece model, and extend it by the mask token.

    Every token has the id that `transformers.AutoTokenizer` gives it, also those that only the configuration names.

    Args:
        source: folder or file; nothing is downloaded.
        mask_token: text of the mask token; its id is the next free one unless the tokenizer has it already.
        bos_token: text of the BOS token, instead of what the tokenizer says.
        eos_token: text of the EOS token, instead of what the tokenizer says.

    Raises:
        UserError: nothing is there, it is not a tokenizer, or a named token is not in its vocabulary.
    """
    if not mask_token.strip():
        raise UserError(
            f"the mask token {mask_token!r} (--mask-token) has no visible character", fix="give one such as [MASK]"
        )
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"tokenizer {source} does not exist",
            fix="give a tokenizer folder, a tokenizer.json or a SentencePiece .model (nothing is downloaded)",
        )
    files = read_tokenizer_files(path)
    tokenizer = _parse(files.definition, path)
    roles = complete(tokenizer, files, source=path)
    for role, option, token in (("bos_token", "--bos-token", bos_token), ("eos_token", "--eos-token", eos_token)):
        if token is not None:
            if tokenizer.token_to_id(token) is None:
                raise UserError(f"{option} {token!r} is not in the vocabulary of tokenizer {source}")
            roles[role] = token
    tokenizer = add_mask(tokenizer, mask_token, reserved=files.reserved, source=path)
    mask_id = tokenizer.token_to_id(mask_token)
    assert mask_id is not None
    ids = {role: None if token is None else tokenizer.token_to_id(token) for role, token in roles.items()}
    if mask_id in ids.values():
        raise UserError(f"tokenizer {source}: the mask token {mask_token!r} is its BOS, EOS, padding or unknown token")
    special = {index for role, index in ids.items() if index is not None and role != "unk_token"}
    special |= {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unknown = roles["unk_token"] or getattr(tokenizer.model, "unk_token", None)
    special -= {None if unknown is None else tokenizer.token_to_id(unknown)}  # a text may give it
    tokenizer.no_truncation()
    tokenizer.no_padding()
    extended = tokenizer.to_str()
    adds_bos = ids["bos_token"] is not None and tokenizer.encode("a").ids[:1] == [ids["bos_token"]]
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    keep(extended, tokenizer)  # the encoders need it next
    return CorpusTokenizer(
        info=TokenizerInfo(
            fingerprint=_fingerprint(extended, ids, mask_id),
            folder=None,
            vocab_size=size,
            bos_id=ids["bos_token"],
            eos_id=ids["eos_token"],
            pad_id=ids["pad_token"],
            mask_id=mask_id,
            mask_token=mask_token,
        ),
        definition=extended,
        config=_saved_config(files.config, roles, mask_token, adds_bos=adds_bos),
        extra_files=files.extra_files,
        special_ids=tuple(sorted(special | {mask_id})),
        adds_bos=adds_bos or bos_token is not None,
        sentencepiece_model=files.sentencepiece_model,
    )


def save_tokenizer(tokenizer: CorpusTokenizer, folder: Path) -> None:
    """Write the extended tokenizer as a folder that `AutoTokenizer.from_pretrained` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
    config = json.dumps(tokenizer.config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    for name, content in tokenizer.extra_files.items():
        (folder / name).write_bytes(content)


def _parse(definition: str, path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(definition)
    except Exception as error:
        refuse_pointer(path / "tokenizer.json" if path.is_dir() else path)
        raise UserError(f"tokenizer {path} is not a tokenizer.json of Hugging Face tokenizers: {error}") from None


def _saved_config(
    config: dict[str, Any], roles: dict[str, str | None], mask_token: str, *, adds_bos: bool
) -> dict[str, Any]:
    """Return the tokenizer_config.json of the extended tokenizer."""
    # tokenizer.json is the one definition of the tokenizer. A class name such as LlamaTokenizer would make
    # transformers 5 rebuild normaliser and pre-tokenizer by its own rules, and the ids could differ from the data's.
    dropped = {"added_tokens_decoder", "tokenizer_file", "name_or_path", "auto_map"}
    kept = {name: value for name, value in config.items() if name not in dropped and value is not None}
    if "add_bos_token" in kept:
        kept["add_bos_token"] = adds_bos  # what tokenizer.json does, which is what transformers goes by
    # A role without a token is written as null: left out, the next reader could take a usual name for it.
    return {**kept, **roles, "mask_token": mask_token, "tokenizer_class": "PreTrainedTokenizerFast"}


def _fingerprint(definition: str, ids: dict[str, int | None], mask_id: int) -> str:
    """Hash what decides the ids of a text: not the template, not the decoder, not the version of the file."""
    content = json.loads(definition)
    decisive = {name: content.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    tables = {name: content["model"].pop(name) for name in ("vocab", "merges") if name in content["model"]}
    decisive = _stated(decisive)
    decisive["model"] |= tables  # large, and nothing in them is absent
    special = {**{role: ids[role] for role in ("bos_token", "eos_token")}, "mask_token": mask_id}
    text = json.dumps([decisive, special], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _stated(value: Any, *, outermost: bool = True) -> Any:
    """Return JSON without the absent values of objects: a later library may write a new option as null or false."""
    if isinstance(value, list):
        return [_stated(item, outermost=False) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _stated(item, outermost=False)
        for name, item in value.items()
        if outermost or (item is not None and item is not False)
    }
