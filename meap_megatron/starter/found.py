"""What a folder contains that a run can start from: a model, a tokenizer, texts or conversations; and the machine."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.corpus.cutting import InputChunk
from meap_megatron.corpus.inputs import METADATA_FOLDERS, METADATA_NAMES, InputFile, find_inputs
from meap_megatron.corpus.json_values import json_values
from meap_megatron.corpus.readers import parse_object
from meap_megatron.corpus.sft.records import detect_format
from meap_megatron.corpus.sft.records_reader import ObjectReader
from meap_megatron.corpus.streams import open_stream
from meap_megatron.doctor.gpus import devices
from meap_megatron.errors import UserError

CONVERSATIONS, TEXT = "conversations", "text"
DEPTH = 3
"""Folders below the one looked at in which models and tokenizers are found."""
MANY = 200
"""Plain-text files of which some can be held out; files of records are taken to have many."""
LOOKED_AT = 3
"""Files of data that are opened to tell what they are; a folder of ten thousand is judged by its first."""
TEXT_KEYS = ("text", "content", "raw_content", "document")
"""Keys and columns in which other people's data has its text, the usual one first."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class FoundData:
    """Files of one kind.

    Attributes:
        kind: CONVERSATIONS or TEXT.
        paths: files or folders, as they go on a command line.
        size: bytes, as stored.
        key: the column or key of the text.
        many: whether it is enough documents to hold some out for validation.
    """

    kind: str
    paths: tuple[Path, ...]
    size: int
    key: str = "text"
    many: bool = True


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What there is to start from.

    Attributes:
        model: a Hugging Face folder with weights, or a GGUF file.
        longest: tokens of the longest sequence of the model; None if its config does not say.
        tokenizer: a tokenizer of its own; None where the model's is used, or one has to be trained.
        data: conversations or text.
        beside: kind and number of files of the data that is left out.
        gpus: NVIDIA GPUs of this machine.
        slurm: whether `sbatch` is on the path.
    """

    model: Path | None
    longest: int | None
    tokenizer: Path | None
    data: FoundData
    beside: tuple[Path, ...]
    gpus: int
    slurm: bool


def look(folder: Path, *, model: Path | None, tokenizer: Path | None, data: list[Path], out: Path) -> Findings:
    """Look at a folder and below it; what is named is taken, the rest is looked for.

    Args:
        folder: what to look at.
        model: named by the user.
        tokenizer: named by the user.
        data: files or folders named by the user.
        out: the folder that will be written; nothing in it counts.

    Raises:
        UserError: there is no data, or several models or tokenizers of which none was named.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", fix="name the one that contains your model and data")
    for named in (model, tokenizer, *data):
        if named is not None and not named.exists():
            raise UserError(f"{named} does not exist", fix="check the path")
    folders = list(_folders(folder, without=out.resolve()))
    models = [path for path in folders if _has_weights(path)]
    models += [path for below in folders for path in sorted(below.glob("*.gguf"))]
    model = model or _one_of(models, "model")
    tokenizers = [path for path in folders if path not in models and _has_tokenizer(path)]
    if model is None or not _has_tokenizer(model if model.is_dir() else model.parent):
        # PREFIX.tokenizer beside a dataset is a copy of one, most likely of one in this folder.
        own = [path for path in tokenizers if not _is_copy(path)]
        tokenizer = tokenizer or _one_of(own or tokenizers, "tokenizer")
    places = data or [path for path in _shallow(folder) if path.resolve() != out.resolve()]
    apart = {path.resolve() for path in (*models, *tokenizers)}
    chosen, beside = _data(places, apart=apart if not data else set(), tunes=model is not None)
    if chosen is None and beside:
        raise UserError(
            f"{', '.join(map(str, beside))}: conversations are for fine-tuning, and there is no model in {folder}",
            fix="put a Hugging Face folder or a .gguf file there, or name it with --model",
        )
    if chosen is None:
        raise UserError(
            f"there is no data in {folder}",
            fix="put text (.txt, .jsonl, .parquet) or conversations (.json, .jsonl, .parquet) there, or name it with --data",
        )
    return Findings(
        model=model,
        longest=_longest(model),
        tokenizer=tokenizer,
        data=chosen,
        beside=beside,
        gpus=devices(),
        slurm=shutil.which("sbatch") is not None,
    )


def _folders(top: Path, *, without: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield a folder and those below it, hidden ones and `without` left out, in the order of their names."""
    if top.resolve() == without:
        return
    yield top
    if depth and os.access(top, os.R_OK):
        for path in sorted(top.iterdir()):
            if path.is_dir() and not path.name.startswith(".") and path.name not in METADATA_FOLDERS:
                yield from _folders(path, without=without, depth=depth - 1)


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors*"))


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _is_copy(folder: Path) -> bool:
    return folder.suffix == ".tokenizer" and folder.with_suffix(".meap.json").exists()


def _one_of(paths: list[Path], what: str) -> Path | None:
    """Return the only path, or None if there is none.

    Raises:
        UserError: there are several.
    """
    if len(paths) > 1:
        raise UserError(
            f"found {len(paths)} {what}s: {', '.join(map(str, paths))}", fix=f"choose one with --{what} PATH"
        )
    return paths[0] if paths else None


def _shallow(folder: Path) -> list[Path]:
    """Return what is in a folder itself, without hidden files and those about the data."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [path for path in paths if path.is_dir() or not METADATA_NAMES.fullmatch(path.name)]


def _data(places: list[Path], *, apart: set[Path], tunes: bool) -> tuple[FoundData | None, tuple[Path, ...]]:
    """Return the data of these files and folders, and which ones are left out.

    Args:
        places: files and folders.
        apart: models and tokenizers; what contains one is not data.
        tunes: there is a model to fine-tune: conversations win over text, else they are left out.
    """
    kinds: dict[str, list[Path]] = {CONVERSATIONS: [], TEXT: []}
    sizes, keys = dict.fromkeys(kinds, 0), {TEXT: "text"}
    documents = 0
    for place in places:
        if any(model == place.resolve() or model.is_relative_to(place.resolve()) for model in apart):
            continue
        try:
            files = find_inputs([str(place)]).files
        except UserError:
            continue  # no file in it that is read: a script, an image
        if (kind := _kind_of(files, keys)) is not None:
            kinds[kind].append(place)
            sizes[kind] += sum(file.size for file in files)
            documents += len(files) if files[0].kind == "txt" else MANY
    kind, other = (CONVERSATIONS, TEXT) if tunes and kinds[CONVERSATIONS] else (TEXT, CONVERSATIONS)
    data = FoundData(kind=kind, paths=tuple(kinds[kind]), size=sizes[kind], key=keys[TEXT], many=documents >= MANY)
    return data if data.paths else None, tuple(kinds[other])


def _kind_of(files: list[InputFile], keys: dict[str, str]) -> str | None:
    """Return what the first files are by their first records; None: neither text nor conversations."""
    for file in files[:LOOKED_AT]:
        if file.kind == "txt":
            return TEXT
        row = _first_row(file)
        if row is None:
            continue
        if detect_format(row) is not None:
            return CONVERSATIONS
        texts = [key for key in TEXT_KEYS if isinstance(row.get(key), str)]
        if texts:
            keys[TEXT] = texts[0]
            return TEXT
    return None


def _first_row(file: InputFile) -> dict[str, Any] | None:
    """Return the first record of a file that is an object."""
    try:
        if file.kind in ("jsonl", "parquet"):
            stop = 1 if file.kind == "parquet" else file.size
            rows = iter(ObjectReader(InputChunk(file=file, start=0, stop=stop, size=file.size), columns=TEXT_KEYS))
            row = next(rows, (0, ""))[1]
        else:
            with open_stream(file.path, compression=file.compression, encoding=file.encoding) as (stream, _):
                values = json_values(stream, brackets=file.kind == "array", place=file.path)
                row = next((parse_object(raw) for _, _, raw in values), "")
    except (UserError, OSError):
        return None  # its preprocessing says what is wrong with it
    return row if isinstance(row, dict) else None


def _longest(model: Path | None) -> int | None:
    """Return `max_position_embeddings` of a Hugging Face folder."""
    if model is None or not model.is_dir():
        return None
    try:
        value = json.loads((model / "config.json").read_text()).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{model / 'config.json'} cannot be read: {error}") from None
    return value if isinstance(value, int) else None


def relative(path: Path, start: Path) -> str:
    """Return a path as a command in `start` names it: relative if it is below, absolute otherwise."""
    path, start = Path(os.path.abspath(path)), Path(os.path.abspath(start))
    return str(path.relative_to(start)) if path.is_relative_to(start) else str(path)
