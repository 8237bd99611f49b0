"""Which tokenizer and which BOS policy belong to a checkpoint, and what an evaluation has to know about its training."""

import dataclasses
from pathlib import Path
from typing import Any

from meap_megatron.checkpoint.convert.megatron_files import Checkpoint
from meap_megatron.checkpoint.convert.record import HF_FOLDER, TOKENIZER_FOLDER, ImportRecord
from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.checkpoint.convert.tokenizer_check import check_named
from meap_megatron.checkpoint.manifest import library_versions
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar, TokenizerInfo, read_sidecar, sidecar_path
from meap_megatron.tokenizer.load import load_tokenizer
from meap_megatron.version import git_commit, installed

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The tokenizer of a checkpoint, and how its documents began and ended.

    Attributes:
        folder: the tokenizer's folder; None: the imported model had none.
        info: its identity, [MASK] included; None: the imported one without [MASK] is kept as it was.
        replaces: its files are copied over those of the imported model.
        sidecar: of the training data, or None where the checkpoint was not trained here.
        prefix: of the training data, where their sidecar is.
    """

    folder: Path | None
    info: TokenizerInfo | None
    replaces: bool
    sidecar: Sidecar | None
    prefix: str | None = None

    @property
    def vocab_size(self) -> int:
        """Ids in use; 0: not known."""
        return self.info.vocab_size if self.info is not None else 0

    @property
    def mask_id(self) -> int | None:
        """Id of [MASK], or None where there is none."""
        return self.info.mask_id if self.info is not None else None


def tokenizer_of(
    checkpoint: Checkpoint, source: tuple[Path, ImportRecord] | None, *, tokenizer: Path | None, data: str | None
) -> DataInfo:
    """Find the tokenizer: the one that is named, that of the data, that of the import.

    Raises:
        UserError: none is found, the data named by the arguments are gone, or another one is named than they have.
    """
    prefix = data or data_prefix(checkpoint.args)
    sidecar = None
    if data is not None or (prefix is not None and sidecar_path(prefix).is_file()):
        sidecar = read_sidecar(str(prefix))
    if tokenizer is not None:
        known = None if sidecar is None else (str(prefix), sidecar)
        info = check_named(tokenizer, data=known, source=source, ids=ids_of_run(checkpoint.args))
        return DataInfo(folder=tokenizer, info=info, replaces=True, sidecar=sidecar, prefix=prefix)
    if sidecar is not None:
        if sidecar.tokenizer.folder is not None:
            folder = sidecar_path(str(prefix)).parent / sidecar.tokenizer.folder
            if folder.is_dir():
                return DataInfo(folder=folder, info=sidecar.tokenizer, replaces=True, sidecar=sidecar, prefix=prefix)
        raise UserError(
            f"{sidecar_path(str(prefix))} names no tokenizer folder that exists", fix="give it with --tokenizer"
        )
    if source is not None and checkpoint.iteration == 0:
        folder, record = source
        if record.mask_id is not None:
            extended = folder / TOKENIZER_FOLDER
            return DataInfo(folder=extended, info=load_tokenizer(extended).info, replaces=True, sidecar=None)
        return DataInfo(folder=folder / HF_FOLDER, info=None, replaces=False, sidecar=None)
    where = f"its data {prefix} are not here" if prefix else "its arguments name no data"
    raise UserError(
        f"the tokenizer of {checkpoint.path} is not known: {where}",
        fix="name the data with --data PREFIX, or the tokenizer with --tokenizer FOLDER",
    )


def data_prefix(args: Any) -> str | None:
    """Return the first dataset prefix that a run's arguments name."""
    for name in ("data_path", "train_data_path"):
        for word in getattr(args, name, None) or ():
            try:
                float(word)
            except ValueError:
                return str(word)
    return None


def ids_of_run(args: Any) -> int | None:
    """Return the ids of the tokenizer that a run was trained with, where the placeholder of `launch` was told them."""
    size = getattr(args, "vocab_size", None)
    return size if getattr(args, "tokenizer_type", None) == "NullTokenizer" and isinstance(size, int) else None


def evaluation_record(checkpoint: Checkpoint, spec: ModelSpec, data: DataInfo) -> dict[str, Any]:
    """Return `meap_eval.json`: what an evaluation must not guess.

    `add_bos` is whether documents began with BOS in training; for a model that was not trained here, whether its
    tokenizer adds one; null if neither is known. `sequence_length` is that of training, in tokens.
    """
    args = checkpoint.args
    sidecar, info = data.sidecar, data.info
    trained = checkpoint.iteration > 0
    return {
        "format_version": FORMAT_VERSION,
        "add_bos": begins_with_bos(sidecar, data.folder) if sidecar else tokenizer_adds_bos(data.folder),
        "add_eos": sidecar.add_eos if sidecar else None,
        "bos_from": "training data" if sidecar else "tokenizer",
        "bos_token_id": info.bos_id if info else None,
        "eos_token_id": info.eos_id if info else None,
        "mask_token": info.mask_token if info else None,
        "mask_token_id": info.mask_id if info else None,
        "tokenizer_fingerprint": info.fingerprint if info else None,
        "data_kind": sidecar.kind if sidecar else None,
        "template": (sidecar.sft or {}).get("template") if sidecar else None,
        "content_hash": sidecar.content_hash if sidecar else None,
        "sequence_length": getattr(args, "seq_length", None) if trained else spec.max_positions,
        "max_position_embeddings": spec.max_positions,
        "rope_theta": spec.rotary_base,
        "mask_ratio": getattr(args, "meap_mask_ratio", None) if trained else None,
        "mask_strategy": getattr(args, "meap_mask_strategy", None) if trained else None,
        "iteration": checkpoint.iteration,
        "parameters": spec.num_parameters,
        "checkpoint": str(checkpoint.path),
        "versions": library_versions() | installed(("transformers", "safetensors", "tokenizers")),
        "commit": git_commit(),
    }


def begins_with_bos(sidecar: Sidecar, folder: Path | None) -> bool:
    """Return whether a text of the training data followed a BOS, its own or the EOS of the one before that is both."""
    info = sidecar.tokenizer
    both = sidecar.add_eos and info.eos_id is not None and info.eos_id == info.bos_id
    return sidecar.add_bos or (both and bool(tokenizer_adds_bos(folder)))


def tokenizer_adds_bos(folder: Path | None) -> bool | None:
    """Return whether a tokenizer's own rules put BOS before a text; None if there is no tokenizer."""
    if folder is None:
        return None
    try:
        return load_tokenizer(folder).adds_bos
    except UserError:
        return None
