"""The sidecar `PREFIX.meap.json`: what `PREFIX.bin` and `PREFIX.idx` were made of, and how to tell that they changed.

Everything that opens a prefix calls `check_prefix` first. The check costs one read of the sidecar, two `stat` calls
and the 34 bytes at the start of the index, so that every rank can afford it; `meap verify` reads all the bytes.

    PREFIX.bin        the token ids of all documents, one after the other
    PREFIX.idx        where each document starts and how long it is (Megatron's format, version 1)
    PREFIX.roles.bin  SFT only: one byte per token (prompt, answer, end), as `indexed.roles` names them
    PREFIX.roles.idx  SFT only: the index of the roles
    PREFIX.meap.json  this file
    PREFIX.tokenizer/ the tokenizer with [MASK] in it
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

from meap_megatron.atomic import replace_text
from meap_megatron.errors import UserError
from meap_megatron.indexed.idx_header import DTYPE_CODES, read_header
from meap_megatron.indexed.replacement import finish

FORMAT_VERSION = 1
KINDS = ("text", "sft")
OPTIONAL = ("sft", "plan", "upsample")  # left out of the file when None
SFT_FIELDS = {
    "template",
    "template_fingerprint",
    "multi_turn",
    "max_length",
    "over_long",
    "min_answer_words",
    "counts",
    "num_trained_tokens",
    "trained_share",
    "answer_length_histogram",
    "roles_bytes",
    "roles_idx_bytes",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """The identity of the tokenizer that made the ids.

    Attributes:
        fingerprint: SHA-256 (hex) over the tokenizer's content: vocabulary, merges, normaliser, special ids.
        folder: the saved tokenizer, relative to the sidecar's folder; None when it was not saved.
        vocab_size: highest id + 1, the mask token included.
        bos_id: id of the token that opens a document, or None when the tokenizer has none.
        eos_id: id of the token that ends a document, or None.
        pad_id: id of the padding token, or None.
        mask_id: id that replaces masked input tokens; never in the data.
        mask_token: text of the mask token.
    """

    fingerprint: str
    folder: str | None
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    mask_id: int
    mask_token: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The content of `PREFIX.meap.json`.

    Attributes:
        kind: "text" (pre-training documents) or "sft".
        content_hash: SHA-256 (hex) over the bytes of .bin, then of .idx, then (SFT) of .roles.bin and .roles.idx;
            independent of the path.
        num_documents: documents in the index.
        num_tokens: tokens in the .bin, BOS and EOS included.
        bin_bytes: size of the .bin.
        idx_bytes: size of the .idx.
        dtype: "uint16" or "int32", the type of one token id.
        add_bos: every document starts with the BOS id.
        add_eos: every document ends with the EOS id.
        tokenizer: the tokenizer that made the ids.
        libraries: name -> version of the libraries that took part.
        format_version: version of this layout.
        sft: for kind "sft", how conversations became rows (template, template_fingerprint, multi_turn, max_length,
            over_long, min_answer_words), what became of them (counts), what is trained (num_trained_tokens,
            trained_share, answer_length_histogram), and the sizes roles_bytes and roles_idx_bytes; None for text.
        plan: SHA-256 (hex) of the inputs and options that made the dataset, by which `--resume` knows its own result
            (`work_folder.plan_hash`); None for merged or adopted data.
        upsample: options and report of `--length-upsample` (`upsample.selection.report`); None if all documents were taken.
    """

    kind: str
    content_hash: str
    num_documents: int
    num_tokens: int
    bin_bytes: int
    idx_bytes: int
    dtype: str
    add_bos: bool
    add_eos: bool
    tokenizer: TokenizerInfo
    libraries: dict[str, str]
    format_version: int = FORMAT_VERSION
    sft: dict[str, Any] | None = None
    plan: str | None = None
    upsample: dict[str, Any] | None = None


def bin_path(prefix: str | Path) -> Path:
    """Return `PREFIX.bin`; a dot inside the prefix stays (`c4.v2` gives `c4.v2.bin`)."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """Return `PREFIX.idx`."""
    return Path(f"{prefix}.idx")


def roles_prefix(prefix: str | Path) -> str:
    """Return `PREFIX.roles`, the prefix of the roles of SFT data."""
    return f"{prefix}.roles"


def sidecar_path(prefix: str | Path) -> Path:
    """Return `PREFIX.meap.json`."""
    return Path(f"{prefix}.meap.json")


def tokenizer_path(prefix: str | Path) -> Path:
    """Return `PREFIX.tokenizer`, the folder of the extended tokenizer."""
    return Path(f"{prefix}.tokenizer")


def read_sidecar(prefix: str | Path) -> Sidecar:
    """Read and validate the sidecar of a prefix.

    A replacement of the dataset that was interrupted after it was complete is finished first.

    Raises:
        UserError: the file is missing, is not JSON, lacks or misspells a field, or has a newer format.
    """
    path = sidecar_path(prefix)
    finish(Path(prefix), last=path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: {prefix} is not a dataset made by 'meap preprocess'",
            fix=f"for data made by another tool run 'meap verify {prefix} --write-sidecar --tokenizer T'",
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})", fix="make the dataset again") from None
    version = record.get("format_version") if isinstance(record, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, this meap_megatron reads up to {FORMAT_VERSION}",
            fix="install a newer one",
        )
    optional = dict.fromkeys(OPTIONAL)
    sidecar = _build(Sidecar, {**optional, **record} if isinstance(record, dict) else record, path)
    if sidecar.kind not in KINDS or sidecar.dtype not in DTYPE_CODES:
        raise UserError(f"{path}: kind {sidecar.kind!r} or dtype {sidecar.dtype!r} is not one that this version knows")
    missing = sorted(SFT_FIELDS - set(sidecar.sft or {})) if sidecar.kind == "sft" else []
    if missing or (sidecar.kind == "text" and sidecar.sft is not None):
        raise UserError(f"{path} is not a sidecar: for kind {sidecar.kind!r} the field 'sft' lacks {missing}")
    return sidecar


def write_sidecar(prefix: str | Path, sidecar: Sidecar) -> None:
    """Write the sidecar of a prefix; it appears complete or not at all."""
    record = dataclasses.asdict(sidecar)
    record = {name: value for name, value in record.items() if value is not None or name not in OPTIONAL}
    replace_text(sidecar_path(prefix), json.dumps(record, indent=2) + "\n")


def check_prefix(prefix: str | Path) -> Sidecar:
    """Check cheaply that a prefix is what its sidecar says, and return the sidecar.

    Compares the sizes of both files and the magic, version, type and counts of the index; reads no token.

    Raises:
        UserError: a file is missing, has another size, or its header disagrees; the message names the file.
    """
    sidecar = read_sidecar(prefix)
    sizes = {bin_path(prefix): sidecar.bin_bytes, idx_path(prefix): sidecar.idx_bytes}
    if sidecar.sft is not None:
        roles = roles_prefix(prefix)
        sizes |= {bin_path(roles): sidecar.sft["roles_bytes"], idx_path(roles): sidecar.sft["roles_idx_bytes"]}
    for path, expected in sizes.items():
        if not path.is_file():
            raise UserError(
                f"{path} does not exist although {sidecar_path(prefix)} does", fix="make the dataset again"
            )
        if (found := path.stat().st_size) != expected:
            raise UserError(
                f"{path} has {found:,} bytes, its sidecar says {expected:,}: the file was "
                f"{'truncated' if found < expected else 'changed after it was made'}",
                fix="copy or make the dataset again",
            )
    header = read_header(idx_path(prefix))
    if header.dtype != sidecar.dtype:
        raise UserError(
            f"{idx_path(prefix)} holds {header.dtype} ids, its sidecar says {sidecar.dtype}",
            fix="copy or make the dataset again",
        )
    if header.num_document_indices != sidecar.num_documents + 1:
        raise UserError(
            f"{idx_path(prefix)} holds {header.num_document_indices - 1:,} documents, "
            f"its sidecar says {sidecar.num_documents:,}",
            fix="copy or make the dataset again",
        )
    return sidecar


def _build[T](cls: type[T], record: Any, path: Path) -> T:
    """Build a dataclass from parsed JSON, checking names and types of the fields."""
    hints = get_type_hints(cls)
    if not isinstance(record, dict) or set(record) != set(hints):
        names = sorted(set(hints) ^ set(record)) if isinstance(record, dict) else []
        raise UserError(f"{path} is not a sidecar: {cls.__name__} lacks or does not know the fields {names}")
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        value = record[name]
        if hint is TokenizerInfo:
            value = _build(TokenizerInfo, value, path)
        plain = dict if hint == dict[str, str] else dict | None if hint == dict[str, Any] | None else hint
        # A bool is an int to isinstance, but not to a reader of the file.
        if not isinstance(value, plain) or (isinstance(value, bool) and hint is not bool):
            raise UserError(f"{path}: {name} is {value!r}, expected {hint}")
        values[name] = value
    return cls(**values)
