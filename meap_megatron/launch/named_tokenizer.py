"""The tokenizer that a Megatron command line names, compared with the one that made the data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar, sidecar_path
from meap_megatron.launch.data_rules import flag
from meap_megatron.launch.named_settings import Settings
from meap_megatron.tokenizer.difference import difference, ids_of
from meap_megatron.tokenizer.load import load_tokenizer
from meap_megatron.tokenizer.parsed import vocabulary

WITHOUT = "leave the tokenizer's flags out, the data says its vocabulary, or give the tokenizer that made it"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A tokenizer as its files have it.

    Attributes:
        path: what the command line says.
        ids: token -> id, without a [MASK] that is added for MEAP.
        fingerprint: that of the sidecar of data made with it; None where it is known by its ids only.
    """

    path: str
    ids: Mapping[str, int]
    fingerprint: str | None

    @property
    def size(self) -> int:
        """Highest id + 1."""
        return max(self.ids.values(), default=-1) + 1


def of_settings(settings: Settings) -> Named | None:
    """Return the tokenizer that the settings name; None if they name none, or one of a kind that is not compared.

    Raises:
        UserError: it is not on this machine, or its files cannot be read.
    """
    kind, model, vocab = (
        str(settings.get(name) or "") for name in ("tokenizer_type", "tokenizer_model", "vocab_file")
    )
    if kind in ("", "NullTokenizer"):
        return None
    if vocab and vocab.endswith(".json") and Path(vocab).is_file():
        return Named(path=vocab, ids=json.loads(Path(vocab).read_text(encoding="utf-8")), fingerprint=None)
    for name in ("vocab_file", "merge_file"):
        if settings.has(name) and not Path(settings.get(name)).is_file():
            raise UserError(f"{settings.where(name)}{flag(name)} {settings.get(name)} is not a file", fix=WITHOUT)
    if not model:
        return None
    folder = Path(model) if Path(model).exists() else cached(model) if kind == "HuggingFaceTokenizer" else None
    if folder is None:
        cache = ", nor in the Hugging Face cache of this machine" if kind == "HuggingFaceTokenizer" else ""
        raise UserError(
            f"{settings.where('tokenizer_model')}--tokenizer-model {model} is not a file or a folder{cache}",
            fix=WITHOUT,
        )
    if kind not in ("HuggingFaceTokenizer", "SentencePieceTokenizer", "Llama2Tokenizer"):
        return None
    loaded = load_tokenizer(folder)
    ids = dict(vocabulary(loaded.definition))
    if ids[loaded.info.mask_token] == len(ids) - 1:
        del ids[loaded.info.mask_token]
    return Named(path=model, ids=ids, fingerprint=loaded.info.fingerprint)


def cached(name: str) -> Path | None:
    """Return the folder of a tokenizer of the Hugging Face hub that was downloaded before, or None."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"):
        try:
            found = try_to_load_from_cache(name, file)
        except ValueError:  # not the form of a name of the hub
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def check(named: Named, sidecar: Sidecar, prefix: str) -> None:
    """Refuse a tokenizer that is not the one of the data, [MASK] apart."""
    info = sidecar.tokenizer
    if named.fingerprint == info.fingerprint:
        return
    folder = None if info.folder is None else sidecar_path(prefix).parent / info.folder
    differing = (
        f"its fingerprint is {(named.fingerprint or 'unknown')[:12]}, that of the data is {info.fingerprint[:12]}"
    )
    if folder is not None and folder.is_dir():
        found = difference(named.ids, ids_of(folder, mask_token=info.mask_token), here="in it", there="in the data")
        if found is None:
            return
        differing = found
    raise UserError(
        f"{named.path} is not the tokenizer that made {prefix} ({differing}): the ids of the data would mean other tokens",
        fix=WITHOUT,
    )
