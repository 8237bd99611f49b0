"""Find the input files and cut them into pieces.

    .txt                           one document per file
    .jsonl, .json                  one JSON object per line, the text under one key
    .parquet                       one document per row, the text in one column
    .txt/.jsonl/.json + .gz/.zst   the same, compressed

A piece is what is read in one go: a byte range of a plain JSON-lines file (the lines that *start* in it), a range of
row groups of a parquet file, or a whole file.
"""

import dataclasses
import glob
import gzip
import sys
import zlib
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError

SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".zst")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file as it was found: resume refuses when size or time changed."""

    path: str
    kind: str  # "txt", "jsonl" or "parquet"
    compression: str  # "", ".gz" or ".zst"
    size: int  # bytes
    modified: int  # nanoseconds since 1970


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of one file: bytes [start, stop) of a plain JSON-lines file, or row groups [start, stop) of a parquet."""

    file: InputFile
    start: int
    stop: int
    size: int  # bytes of input, for progress and for cutting
    without: frozenset[str] = frozenset()  # sources whose documents are passed over (length upsampling)


def classify(path: Path) -> tuple[str, str] | None:
    """Return (kind, compression) by the file's name, or None for a suffix that is not read."""
    compression = path.suffix if path.suffix in COMPRESSIONS else ""
    inner = Path(path.stem).suffix if compression else path.suffix
    kind = SUFFIXES.get(inner)
    return None if kind is None or (kind == "parquet" and compression) else (kind, compression)


def find_inputs(patterns: list[str]) -> list[InputFile]:
    """Expand files, folders and globs into a list of files: patterns in the order given, files of each sorted.

    A folder gives all files below it with a known suffix. A file that two patterns name is read once.

    Raises:
        UserError: a pattern matches nothing, a folder holds no readable file, or a named file has an unknown suffix.
    """
    known = ", ".join([*SUFFIXES, *(f"{s}{c}" for s in (".txt", ".jsonl") for c in COMPRESSIONS)])
    found: dict[Path, InputFile] = {}
    repeated = 0
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            paths = sorted(p for p in path.rglob("*") if p.is_file() and classify(p) and not p.name.startswith("."))
            if not paths:
                raise UserError(f"input folder {pattern} holds no file with a known suffix ({known})")
        elif path.exists():
            paths = [path]
        else:
            paths = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if not p.is_dir())
            if not paths:
                raise UserError(f"no input matches {pattern!r}: neither a file, nor a folder, nor a glob with a match")
        for p in paths:
            kind = classify(p)
            if kind is None:
                raise UserError(f"input {p} has an unknown suffix; known are {known}")
            resolved = p.resolve()
            repeated += resolved in found
            with reading(str(p)):
                stat = p.stat()
            found[resolved] = InputFile(
                path=str(p), kind=kind[0], compression=kind[1], size=stat.st_size, modified=stat.st_mtime_ns
            )
    if repeated:
        print(f"meap: note: {repeated} input files are named twice and are read once", file=sys.stderr)
    return list(found.values())


def cut(file: InputFile, piece_bytes: int) -> list[Piece]:
    """Cut one file into pieces of about `piece_bytes`; the pieces depend on the file and the size only.

    Raises:
        UserError: the parquet file cannot be read.
    """
    whole = Piece(file=file, start=0, stop=file.size, size=file.size)
    if file.kind == "jsonl" and not file.compression:
        starts = range(0, file.size, piece_bytes)
        stops = [min(start + piece_bytes, file.size) for start in starts]
        return [Piece(file=file, start=a, stop=b, size=b - a) for a, b in zip(starts, stops, strict=True)]
    if file.kind != "parquet":
        return [whole]
    with reading(file.path):
        import pyarrow.parquet

        metadata = pyarrow.parquet.read_metadata(file.path)
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    pieces: list[Piece] = []
    start = 0
    for group in range(len(sizes)):
        size = sum(sizes[start : group + 1])
        if size >= piece_bytes or group == len(sizes) - 1:
            pieces.append(Piece(file=file, start=start, stop=group + 1, size=size))
            start = group + 1
    return pieces


class reading:  # noqa: N801 (used as a statement)
    """Turn the errors of opening and decompressing one file into a `UserError` that names it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError) or not isinstance(error, Exception):
            return
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        damage = isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile))
        arrow = type(error).__module__.startswith(("pyarrow", "zstandard", "zstd"))
        if damage or arrow or isinstance(error, OSError):
            raise UserError(
                f"input {self.path} cannot be read: {reason}; the file is damaged or not readable"
            ) from error
