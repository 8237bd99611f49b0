"""Inputs to documents: find the files, cut them into pieces, stream the documents of one piece with their place.

    .txt                    one document per file
    .jsonl, .json           one JSON object per line, the text under one key
    .parquet                one document per row, the text in one column
    .txt/.jsonl/.json + .gz/.zst   the same, compressed

A piece is what one worker reads in one go: a byte range of a plain JSON-lines file (the lines that *start* in it), a
range of row groups of a parquet file, or a whole file. Memory is one line (or one .txt document), never the file.
"""

import dataclasses
import glob
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from meap_megatron.errors import UserError

SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".zst")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# (line or row number within the piece, counted from 1; UTF-8 text, or the reason why there is none)
Document = tuple[int, bytes | str]


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
    with _damaged(file.path):
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


class PieceReader:
    """Stream the documents of one piece.

    Attributes:
        consumed: bytes of the piece read so far, comparable to `piece.size`.
    """

    def __init__(self, piece: Piece, *, key: str) -> None:
        self.piece = piece
        self.key = key
        self.consumed = 0

    def __iter__(self) -> Iterator[Document]:
        """Yield (number, text as UTF-8 bytes) or (number, reason as str) for each document.

        Raises:
            UserError: the file is missing, unreadable or damaged, or has no such column.
        """
        with _damaged(self.piece.file.path):
            yield from {"txt": self._text, "jsonl": self._lines, "parquet": self._rows}[self.piece.file.kind]()
        self.consumed = self.piece.size

    def place(self, number: int) -> str:
        """Return `file:line` (or `file: row n`) of a document of this piece; counts lines, so call it for errors."""
        file = self.piece.file
        if file.kind == "parquet":
            import pyarrow.parquet

            metadata = pyarrow.parquet.read_metadata(file.path)
            before = sum(metadata.row_group(group).num_rows for group in range(self.piece.start))
            return f"{file.path}: row {before + number}"
        if self.piece.start == 0:
            return f"{file.path}:{number}"
        before = 0
        with open(file.path, "rb") as stream:
            left = _first_line_start(stream, self.piece.start)
            stream.seek(0)
            while left and (chunk := stream.read(min(left, 2**20))):
                before += chunk.count(b"\n")
                left -= len(chunk)
        return f"{file.path}:{before + number}"

    def _text(self) -> Iterator[Document]:
        with _open(self.piece.file) as (stream, _):
            raw = stream.read().removeprefix(BYTE_ORDER_MARK)
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield 1 + raw.count(b"\n", 0, error.start), f"invalid UTF-8 ({error.reason})"
        else:
            yield 1, raw

    def _lines(self) -> Iterator[Document]:
        piece, key = self.piece, self.key
        with _open(piece.file) as (stream, position):
            plain = not piece.file.compression
            offset = _first_line_start(stream, piece.start) if plain else 0
            if plain:
                stream.seek(offset)
            number = 0
            while not plain or offset < piece.stop:
                line = stream.readline()
                if not line:
                    break
                number += 1
                offset += len(line)
                self.consumed = offset - piece.start if plain else position()
                if number == 1 and piece.start == 0:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if not line.isspace() and line:
                    yield number, parse_line(line, key)

    def _rows(self) -> Iterator[Document]:
        import pyarrow
        import pyarrow.parquet

        path, key = self.piece.file.path, self.key
        with pyarrow.parquet.ParquetFile(path) as table:
            schema = table.schema_arrow
            if key not in schema.names:
                raise UserError(f"{path} has no column {key!r}, only {schema.names}; --json-key names the text column")
            kind = schema.field(key).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise UserError(f"{path}: column {key!r} holds {kind}, expected strings")
            groups = range(self.piece.start, self.piece.stop)
            rows = sum(table.metadata.row_group(group).num_rows for group in groups)
            number = 0
            for batch in table.iter_batches(batch_size=1024, row_groups=list(groups), columns=[key]):
                # As bytes: a value that is not UTF-8 is then one bad row and not the end of the file.
                for value in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                    number += 1
                    self.consumed = self.piece.size * number // rows
                    yield number, f"{key!r} is null" if value is None else _checked(value)


def parse_line(line: bytes, key: str) -> bytes | str:
    """Return the text of one JSON line as UTF-8 bytes, or the reason (a str) why it has none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start} of the line"
    except (ValueError, RecursionError) as error:
        return f"invalid JSON: {error}"
    if not isinstance(record, dict):
        return f"the line is a JSON {type(record).__name__}, expected an object with the key {key!r}"
    if key not in record:
        return f"no key {key!r}, only {sorted(record)[:8]}; --json-key names the text"
    text = record[key]
    if not isinstance(text, str):
        return f"{key!r} is a {type(text).__name__}, expected a string"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{key!r} holds half of a surrogate pair, which is no text"


def _checked(value: bytes) -> bytes | str:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start}"
    return value


def _first_line_start(stream: IO[bytes], offset: int) -> int:
    """Return the offset of the first line that starts at or after `offset`."""
    if offset == 0:
        return 0
    stream.seek(offset - 1)
    return offset - 1 + len(stream.readline())


class _damaged:  # noqa: N801 (used as a statement)
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


class _open:  # noqa: N801 (used as a statement)
    """Open a file for reading bytes, decompressed; gives the stream and a function that tells the bytes consumed."""

    def __init__(self, file: InputFile) -> None:
        self.file = file

    def __enter__(self) -> tuple[IO[bytes], Any]:
        self.raw = open(self.file.path, "rb")  # noqa: SIM115 (closed in __exit__)
        if self.file.compression == ".gz":
            return cast(IO[bytes], io.BufferedReader(gzip.GzipFile(fileobj=self.raw), 2**20)), self.raw.tell
        if self.file.compression == ".zst":
            return io.BufferedReader(_ZstdFrames(self.raw), 2**20), self.raw.tell
        return self.raw, self.raw.tell

    def __exit__(self, *_: object) -> None:
        self.raw.close()


class _ZstdFrames(io.RawIOBase):
    """Decompress a sequence of zstd frames; an end inside a frame is an error (the library's own reader is silent)."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self.raw = raw
        self.context = zstandard.ZstdDecompressor()
        self.frame = self.context.decompressobj()
        self.inside = False  # a frame has begun and not ended
        self.pending = b""  # compressed bytes not yet given to a frame
        self.ready = b""  # decompressed bytes not yet given to the caller

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            chunk = self.pending or self.raw.read(2**16)
            if not chunk:
                if self.inside:
                    raise EOFError("it ends inside a zstd frame")
                return 0
            self.ready = self.frame.decompress(chunk)
            self.inside = not self.frame.eof
            self.pending = self.frame.unused_data if self.frame.eof else b""
            if self.frame.eof:
                self.frame = self.context.decompressobj()
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count
