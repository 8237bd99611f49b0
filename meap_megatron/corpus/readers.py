"""Stream the documents of one chunk with their place. Memory is one line (or one .txt document), never the file."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

from meap_megatron.corpus import hub
from meap_megatron.corpus.cutting import InputChunk, cut
from meap_megatron.corpus.inputs import InputFile
from meap_megatron.corpus.json_values import json_values
from meap_megatron.corpus.streams import BYTE_ORDER_MARK, open_stream, part_of, reading
from meap_megatron.errors import UserError, kind_of

# (line or row number within the chunk, counted from 1; UTF-8 text, or the reason why there is none)
Document = tuple[int, bytes | str]


class RecordReader[T](ABC):
    """Stream the records of one chunk.

    Attributes:
        consumed: bytes of the chunk read so far, comparable to `chunk.size`.
    """

    def __init__(self, chunk: InputChunk) -> None:
        self.chunk = chunk
        self.consumed = 0

    def __iter__(self) -> Iterator[tuple[int, T | str]]:
        """Yield (number, record) or (number, reason as str) for each record.

        Raises:
            UserError: the file is missing, unreadable or damaged, or has no such column.
        """
        with reading(self.chunk.file.path):
            yield from self.records()
        self.consumed = self.chunk.size

    @abstractmethod
    def records(self) -> Iterator[tuple[int, T | str]]:
        """Give what `__iter__` yields; may raise what reading raises."""

    def place(self, number: int) -> str:
        """Return `file:line` (or `file: row n`) of a document of this chunk; counts lines, so call it for errors."""
        return place_of(self.chunk.file, self.chunk.start, number)

    def values[U](self, parse: Callable[[bytes], U]) -> Iterator[tuple[int, U]]:
        """Give the JSON values of the chunk, parsed, by the line in which each begins; lines that are blank are none."""
        return self._lines(parse) if self.chunk.file.kind == "jsonl" else self._elements(parse)

    def hub_rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give the rows of a shard of a data set of the Hub."""
        return enumerate(hub.rows_of(self.chunk.file.path, self.chunk.start, version=self.chunk.file.modified), 1)

    def open(self) -> AbstractContextManager[tuple[IO[bytes], Callable[[], int]]]:
        """Open the file."""
        file = self.chunk.file
        return open_stream(file.path, compression=file.compression, encoding=file.encoding)

    def table_rows(
        self, columns: Callable[[Any], list[str]], values: Callable[[int, Any], list[Any]], *, batch_size: int
    ) -> Iterator[tuple[int, Any]]:
        """Give the rows of a parquet file.

        Args:
            columns: from the open file to the names of the columns that are read.
            values: from the number of rows before a batch, and the batch, to its rows.
            batch_size: rows of a batch.
        """
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.chunk.file.path) as table:
            names, groups = columns(table), range(self.chunk.start, self.chunk.stop)
            total = sum(table.metadata.row_group(group).num_rows for group in groups)
            number = 0
            for batch in table.iter_batches(batch_size=batch_size, row_groups=list(groups), columns=names):
                for value in values(number, batch):
                    number += 1
                    self.consumed = self.chunk.size * number // total
                    yield number, value

    def _lines[U](self, parse: Callable[[bytes], U]) -> Iterator[tuple[int, U]]:
        chunk = self.chunk
        with self.open() as (stream, position):
            seekable = chunk.file.seekable
            offset = _first_line_start(stream, chunk.start) if seekable else 0
            if seekable:
                stream.seek(offset)
            number = 0
            while not seekable or offset < chunk.stop:
                line = stream.readline()
                if not line:
                    break
                number += 1
                offset += len(line)
                self.consumed = offset - chunk.start if seekable else position()
                if number == 1 and chunk.start == 0:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if not line.isspace() and line:
                    yield number, parse(line)

    def _elements[U](self, parse: Callable[[bytes], U]) -> Iterator[tuple[int, U]]:
        chunk = self.chunk
        with self.open() as (stream, position):
            seekable = chunk.file.seekable
            if seekable:
                stream.seek(chunk.start)
                stream = part_of(stream, chunk.stop - chunk.start)
            brackets = chunk.file.kind == "array" and not seekable
            for line, offset, raw in json_values(stream, brackets=brackets, place=chunk.file.path):
                self.consumed = offset + len(raw) if seekable else position()
                yield line, parse(raw)


class ChunkReader(RecordReader[bytes]):
    """Stream the documents of one chunk: (number, text as UTF-8 bytes), or (number, reason as str)."""

    def __init__(self, chunk: InputChunk, *, key: str) -> None:
        super().__init__(chunk)
        self.key = key

    def records(self) -> Iterator[Document]:
        """Give the documents."""
        return {"txt": self._text, "parquet": self._rows, hub.KIND: self._hub}.get(
            self.chunk.file.kind, self._objects
        )()

    def _text(self) -> Iterator[Document]:
        with self.open() as (stream, _):
            raw = stream.read().removeprefix(BYTE_ORDER_MARK)
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield 1 + raw.count(b"\n", 0, error.start), f"invalid UTF-8 ({error.reason})"
        else:
            yield 1, raw

    def _objects(self) -> Iterator[Document]:
        for number, record in self.values(lambda raw: parse_object(raw, wanted=f" with the key {self.key!r}")):
            yield number, record if isinstance(record, str) else self.document(number, record)

    def _hub(self) -> Iterator[Document]:
        for number, record in self.hub_rows():
            yield number, self.document(number, record)

    def document(self, number: int, record: dict[str, Any]) -> bytes | str:
        """Return the text of the object of a JSON line as UTF-8 bytes, or the reason (a str) why it has none."""
        del number
        return text_of(record, self.key)

    def _rows(self) -> Iterator[Document]:
        def values(before: int, batch: Any) -> list[bytes | None]:
            self.see_batch(before, batch)
            # As bytes: a value that is not UTF-8 is then one bad row and not the end of the file.
            return _as_bytes(batch.column(self.key)).to_pylist()

        for number, value in self.table_rows(self.columns, values, batch_size=1024):
            yield number, f"{self.key!r} is null" if value is None else _checked(value)

    def columns(self, table: Any) -> list[str]:
        """Return the columns of a parquet file that are read.

        Raises:
            UserError: there is no such column, or it has no texts.
        """
        path, schema = self.chunk.file.path, table.schema_arrow
        if self.key not in schema.names:
            raise UserError(
                f"{path} has no column {self.key!r}, only {schema.names}", fix="name the text column with --json-key"
            )
        if not _holds_texts(kind := schema.field(self.key).type):
            raise UserError(
                f"{path}: column {self.key!r} contains {kind}, expected strings",
                fix="name a text column with --json-key",
            )
        return [self.key]

    def see_batch(self, before: int, batch: Any) -> None:
        """Look at a batch of rows before its texts are given; `before` rows came before it."""


def texts_of(files: list[InputFile], *, key: str, most: int) -> Iterator[str]:
    """Yield the texts of files one after the other, until they are `most` bytes.

    Raises:
        UserError: a file cannot be read, or a record has no text; it is named.
    """
    left = most
    for file in files:
        for chunk in cut(file, file.size + 1):
            reader = ChunkReader(chunk, key=key)
            for number, text in reader:
                if isinstance(text, str):
                    raise UserError(f"{reader.place(number)}: {text}")
                yield text.decode()
                left -= len(text)
                if left <= 0:
                    return


def place_of(file: InputFile, start: int, number: int) -> str:
    """Return `file:line` (or `file: row n`) of a document; reads the file up to there.

    Args:
        file: the file.
        start: where the chunk starts.
        number: line or row in the chunk, counted from 1.
    """
    if file.kind == hub.KIND:
        return f"{file.path}: row {number} of shard {start}"
    if file.kind == "parquet":
        import pyarrow.parquet

        metadata = pyarrow.parquet.read_metadata(file.path)
        before = sum(metadata.row_group(group).num_rows for group in range(start))
        return f"{file.path}: row {before + number}"
    before = 0
    with open(file.path, "rb") as stream:
        left = _first_line_start(stream, start) if file.kind == "jsonl" else start
        stream.seek(0)
        while left and (block := stream.read(min(left, 2**20))):
            before += block.count(b"\n")
            left -= len(block)
    return f"{file.path}:{before + number}"


def text_of(record: dict[str, Any], key: str) -> bytes | str:
    """Return the text of the object of one JSON line as UTF-8 bytes, or the reason (a str) why it has none."""
    if key not in record:
        return f"no key {key!r}, only {sorted(record)[:8]}; --json-key names the text"
    text = record[key]
    if not isinstance(text, str):
        return f"{key!r} is {kind_of(text)}, expected a string"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{key!r} contains half of a surrogate pair, which is not text"


def parse_object(line: bytes, *, wanted: str = "") -> dict[str, Any] | str:
    """Return the object of one JSON line, or the reason (a str) why there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"invalid UTF-8 at byte {error.start} of the line"
    except (ValueError, RecursionError) as error:
        return f"invalid JSON: {error}"
    if not isinstance(record, dict):
        return f"the line is {kind_of(record)}, expected an object{wanted}"
    return record


def _holds_texts(kind: Any) -> bool:
    """Tell whether an Arrow type is one of the many of strings, or of bytes, in which Spark writes them."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    views = [getattr(types, name) for name in ("is_string_view", "is_binary_view") if hasattr(types, name)]
    return any(test(kind) for test in (*tests, *views))


def _as_bytes(column: Any) -> Any:
    """Return an Arrow array of strings of any type as one of bytes."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pyarrow.large_binary())


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
