"""The published evaluation files: found by their names in one folder, read and checked."""

import gzip
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError, refuse_pointer

ENVIRONMENT = "MEAP_EVAL_DATA"


def data_folder(given: str | Path | None) -> Path | None:
    """Return the folder of evaluation data: the given one, or $MEAP_EVAL_DATA, or None.

    Raises:
        UserError: it does not exist.
    """
    chosen = given or os.environ.get(ENVIRONMENT)
    if not chosen:
        return None
    path = Path(chosen)
    if not path.is_dir():
        raise UserError(f"evaluation data {path} is not a folder (--data, or ${ENVIRONMENT})")
    return path


def find(folder: Path, name: str) -> Path | None:
    """Return a data file by its published name, in the folder or one level below, packed or not."""
    for candidate in (name, name.removesuffix(".gz")):
        places = [folder / candidate, *sorted(folder.glob(f"*/{candidate}"))]
        if found := next((place for place in places if place.is_file()), None):
            return found
    return None


def whole(value: Any) -> Any:
    """Return a value of JSON with U+FFFD for each half of a surrogate pair, which no tokenizer and no file takes."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {whole(key): whole(inner) for key, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list) else value


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: it cannot be read, or is only the pointer of a file in Git LFS.
    """
    refuse_pointer(path)
    try:
        return whole(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})", fix="copy the file again") from error


def subfolder(folder: Path | None, name: str) -> Path | None:
    """Return the data folder of a benchmark: the folder NAME in the folder of evaluation data, or None."""
    return folder / name if folder is not None and (folder / name).is_dir() else None


@lru_cache(maxsize=4)
def read_records(path: Path, fields: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """Return the records of a JSON-lines file (`.gz` or not) or of a JSON file that holds a list.

    Each needs the keys `fields`, with a value that is not empty.

    Raises:
        UserError: the file cannot be read or a record lacks a key; names file and line.
    """
    records: list[dict[str, Any]] = []
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream
        ):
            for record in json.load(stream) if path.suffix == ".json" else map(json.loads, stream):
                if not isinstance(record, dict) or not all(record.get(field) for field in fields):
                    raise UserError(
                        f"{path}:{len(records) + 1}: a record needs {', '.join(fields)}",
                        fix="get the published file again",
                    )
                records.append(whole(record))
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}:{len(records) + 1}: cannot be read ({error})", fix="copy the file again") from error
    if not records:
        raise UserError(f"{path} holds no records", fix="copy the file again")
    return tuple(records)
