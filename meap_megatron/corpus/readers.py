"""Stream the documents of one piece with their place. Memory is one line (or one .txt document), never the file."""

import gzip
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from meap_megatron.corpus.inputs import InputFile, Piece, reading
from meap_megatron.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# (line or row number within the piece, counted from 1; UTF-8 text, or the reason why there is none)
Document = tuple[int, bytes | str]


class RecordReader[T](ABC):
    """Stream the records of one piece.

    Attributes:
        consumed: bytes of the piece read so far, comparable to `piece.size`.
    """

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.consumed = 0

    def __iter__(self) -> Iterator[tuple[int, T | str]]:
        """Yield (number, record) or (number, reason as str) for each record.

        Raises:
            UserError: the file is missing, unreadable or damaged, or has no such column.
        """
        with reading(self.piece.file.path):
            yield from self.records()
        self.consumed = self.piece.size

    @abstractmethod
    def records(self) -> Iterator[tuple[int, T | str]]:
        """Give what `__iter__` yields; may raise what reading raises."""

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

    def lines[U](self, parse: Callable[[bytes], U]) -> Iterator[tuple[int, U]]:
        """Give the lines that start in the piece and are not blank, parsed."""
        piece = self.piece
        with open_input(piece.file) as (stream, position):
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
                    yield number, parse(line)


class PieceReader(RecordReader[bytes]):
    """Stream the documents of one piece: (number, text as UTF-8 bytes), or (number, reason as str)."""

    def __init__(self, piece: Piece, *, key: str) -> None:
        super().__init__(piece)
        self.key = key

    def records(self) -> Iterator[Document]:
        """Give the documents."""
        return {"txt": self._text, "jsonl": self._lines, "parquet": self._rows}[self.piece.file.kind]()

    def _text(self) -> Iterator[Document]:
        with open_input(self.piece.file) as (stream, _):
            raw = stream.read().removeprefix(BYTE_ORDER_MARK)
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield 1 + raw.count(b"\n", 0, error.start), f"invalid UTF-8 ({error.reason})"
        else:
            yield 1, raw

    def _lines(self) -> Iterator[Document]:
        for number, record in self.lines(lambda line: parse_object(line, wanted=f" with the key {self.key!r}")):
            yield number, record if isinstance(record, str) else self.document(number, record)

    def document(self, number: int, record: dict[str, Any]) -> bytes | str:
        """Return the text of the object of a JSON line as UTF-8 bytes, or the reason (a str) why it has none."""
        del number
        return text_of(record, self.key)

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
            for batch in table.iter_batches(batch_size=1024, row_groups=list(groups), columns=self.columns(schema)):
                self.see_batch(number, batch)
                # As bytes: a value that is not UTF-8 is then one bad row and not the end of the file.
                for value in batch.column(key).cast(pyarrow.large_binary()).to_pylist():
                    number += 1
                    self.consumed = self.piece.size * number // rows
                    yield number, f"{key!r} is null" if value is None else _checked(value)

    def columns(self, schema: Any) -> list[str]:
        """Return the columns of a parquet file that are read."""
        del schema
        return [self.key]

    def see_batch(self, before: int, batch: Any) -> None:
        """Look at a batch of rows before its texts are given; `before` rows came before it."""


def text_of(record: dict[str, Any], key: str) -> bytes | str:
    """Return the text of the object of one JSON line as UTF-8 bytes, or the reason (a str) why it has none."""
    if key not in record:
        return f"no key {key!r}, only {sorted(record)[:8]}; --json-key names the text"
    text = record[key]
    if not isinstance(text, str):
        return f"{key!r} is a {type(text).__name__}, expected a string"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{key!r} holds half of a surrogate pair, which is no text"


def parse_object(line: bytes, *, wanted: str = "") -> dict[str, Any] | str:
    """Return the object of one JSON line, or the reason (a str) why there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start} of the line"
    except (ValueError, RecursionError) as error:
        return f"invalid JSON: {error}"
    if not isinstance(record, dict):
        return f"the line is a JSON {type(record).__name__}, expected an object{wanted}"
    return record


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


class open_input:  # noqa: N801 (used as a statement)
    """Open a file for reading bytes, decompressed; gives the stream and a function that tells the bytes consumed."""

    def __init__(self, file: InputFile) -> None:
        self.file = file

    def __enter__(self) -> tuple[IO[bytes], Any]:
        self.raw = open(self.file.path, "rb", buffering=2**20)  # noqa: SIM115 (closed in __exit__)
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
