"""Stream the rows of a piece as parsed objects: lines of JSON, elements of a JSON array, rows of a parquet file.

A JSON array is found by its first character. Where its elements begin only a parser can tell, so a plain file is
parsed once for the plan and cut between elements; a compressed one is one piece.
"""

import json
from collections.abc import Iterator
from typing import Any

from meap_megatron.corpus.inputs import InputFile, Piece, cut, reading
from meap_megatron.corpus.readers import BYTE_ORDER_MARK, RecordReader, open_input, parse_object
from meap_megatron.corpus.sft.records import COLUMNS
from meap_megatron.errors import UserError

SPACE = b" \t\n\r"
Record = tuple[int, dict[str, Any] | str]


def as_rows(file: InputFile) -> str:
    """Return how the rows of a file stand in it: "array", "jsonl" or "parquet".

    Raises:
        UserError: a file of plain text, or one that cannot be read.
    """
    if file.kind == "txt":
        raise UserError(f"input {file.path} is plain text; conversations come as .json, .jsonl or .parquet")
    if file.kind == "parquet":
        return "parquet"
    with reading(file.path), open_input(file) as (stream, _):
        start = stream.read(2**16).removeprefix(BYTE_ORDER_MARK).lstrip(SPACE)
    return "array" if start.startswith(b"[") else "jsonl"


def cut_rows(file: InputFile, piece_bytes: int) -> list[Piece]:
    """Cut one file into pieces of about `piece_bytes`, an array between two elements.

    Raises:
        UserError: the array is damaged, or the file cannot be read.
    """
    if file.kind != "array":
        return cut(file, piece_bytes)
    if file.compression:
        return [Piece(file=file, start=0, stop=file.size, size=file.size)]
    with reading(file.path), open(file.path, "rb") as stream:
        raw = stream.read()
    pieces: list[Piece] = []
    begin = None
    for start, stop in element_spans(raw, place=file.path, opened=False):
        begin = start if begin is None else begin
        if stop - begin >= piece_bytes:
            pieces.append(Piece(file=file, start=begin, stop=stop, size=stop - begin))
            begin = None
    if begin is not None:
        pieces.append(Piece(file=file, start=begin, stop=stop, size=stop - begin))
    return pieces


def element_spans(raw: bytes, *, place: str, opened: bool) -> Iterator[tuple[int, int]]:
    """Give the byte range of each element of a JSON array.

    Args:
        raw: the array; if `opened`, neighbouring elements of one without the brackets.
        place: the file, for messages.
        opened: see `raw`.

    Raises:
        UserError: this is no JSON array; the message names the line.
    """
    # One character per byte: the structure of JSON is ASCII, and positions are then positions in the file.
    text = raw.decode("latin-1")
    decoder = json.JSONDecoder()

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\n\r":
            position += 1
        return position

    def damaged(position: int, reason: str) -> UserError:
        line = 1 + raw.count(b"\n", 0, position)
        return UserError(
            f"{place}:{line}: invalid JSON array: {reason}; rows of a .json file are the array's elements"
        )

    position = len(BYTE_ORDER_MARK) if raw.startswith(BYTE_ORDER_MARK) else 0
    position = skip(position)
    if not opened:
        position = skip(position + 1)
        if text[position : position + 1] == "]":
            return
    while True:
        try:
            stop = decoder.raw_decode(text, position)[1]
        except (ValueError, RecursionError) as error:
            raise damaged(getattr(error, "pos", position), getattr(error, "msg", str(error))) from None
        yield position, stop
        position = skip(stop)
        if opened and position == len(text):
            return
        if text[position : position + 1] == "]" and not opened:
            if skip(position + 1) != len(text):
                raise damaged(position + 1, "text after the closing bracket")
            return
        if text[position : position + 1] != ",":
            raise damaged(position, "expected ',' or ']' after an element")
        position = skip(position + 1)


class RowReader(RecordReader[dict[str, Any]]):
    """Stream the rows of one piece: (number, object), or (number, reason as str)."""

    def records(self) -> Iterator[Record]:
        """Give the rows."""
        kind = self.piece.file.kind
        if kind == "jsonl":
            return self.lines(parse_object)
        return self._elements() if kind == "array" else self._rows()

    def place(self, number: int) -> str:
        """Return `file:line` of a row; for an array `number` counts lines from the piece's start."""
        piece = self.piece
        if piece.file.kind != "array" or piece.file.compression:
            return super().place(number)
        with open(piece.file.path, "rb") as stream:
            before = stream.read(piece.start).count(b"\n")
        return f"{piece.file.path}:{before + number}"

    def _elements(self) -> Iterator[Record]:
        piece = self.piece
        plain = not piece.file.compression
        with open_input(piece.file) as (stream, _):
            if plain:
                stream.seek(piece.start)
            raw = stream.read(piece.stop - piece.start) if plain else stream.read()
        line, counted = 1, 0
        for start, stop in element_spans(raw, place=piece.file.path, opened=plain):
            line, counted = line + raw.count(b"\n", counted, start), start
            self.consumed = stop if plain else piece.size * stop // len(raw)
            yield line, parse_object(raw[start:stop])

    def _rows(self) -> Iterator[Record]:
        import pyarrow.parquet

        path = self.piece.file.path
        with pyarrow.parquet.ParquetFile(path) as table:
            names = [name for name in table.schema_arrow.names if name in COLUMNS]
            if not names:
                raise UserError(
                    f"{path} has none of the columns {', '.join(COLUMNS)}, only {table.schema_arrow.names[:8]}"
                )
            groups = range(self.piece.start, self.piece.stop)
            rows = sum(table.metadata.row_group(group).num_rows for group in groups)
            number = 0
            for batch in table.iter_batches(batch_size=256, row_groups=list(groups), columns=names):
                for row in batch.to_pylist():
                    number += 1
                    self.consumed = self.piece.size * number // rows
                    yield number, row
