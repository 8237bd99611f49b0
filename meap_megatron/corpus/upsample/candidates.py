"""One shard of a length-upsampled corpus: its candidates, encoded, and a row for every document that was read."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.cutting import InputChunk
from meap_megatron.corpus.readers import ChunkReader, Document
from meap_megatron.corpus.shard import ShardResult, part_file
from meap_megatron.corpus.text_shard import TextEncoder
from meap_megatron.corpus.upsample.selection import ROW, Upsample, draw, source_of_file
from meap_megatron.errors import UserError

ROWS = "rows"
"""Suffix of the third file of a finished shard: a ROW per document that was read."""


class SourceReader(ChunkReader):
    """Stream the documents whose source has a budget that is not known to be met.

    Attributes:
        sources: number of a document -> its source; who takes the document takes its entry out.
    """

    def __init__(self, chunk: InputChunk, *, key: str, options: Upsample, unknown_sources: dict[str, int]) -> None:
        """Counts the documents of sources that have no budget in `unknown_sources`."""
        super().__init__(chunk, key=key)
        self.options = options
        self.of_file = source_of_file(chunk.file.path, options.source)
        self.sources: dict[int, str] = {}
        self.unknown_sources = unknown_sources
        self.path = options.source.split(".")
        if self.of_file is None and chunk.file.kind == "txt":
            raise UserError(
                f"input {chunk.file.path} is plain text, which has no key {options.source!r}",
                fix="take the source of its documents from the files' place, with --upsample-source folder or file",
            )

    def records(self) -> Iterator[Document]:
        """Give the documents that may be taken."""
        for number, text in super().records():
            source = self.of_file if self.of_file is not None else self.sources.pop(number, None)
            if not text or isinstance(text, str):
                yield number, text
            elif source is None:
                yield number, f"no source under the key {self.options.source!r}; --upsample-source names it"
            elif source not in self.options.mixture:
                self.unknown_sources[source] = self.unknown_sources.get(source, 0) + 1
            elif source not in self.chunk.without:
                self.sources[number] = source
                yield number, text

    def document(self, number: int, record: dict[str, Any]) -> bytes | str:
        """Return the text of a JSON line, and keep its source."""
        self._see(number, record, self.path)
        return super().document(number, record)

    def columns(self, table: Any) -> list[str]:
        """Return the columns of the text and of the source."""
        found = super().columns(table)
        if self.of_file is not None:
            return found
        if self.path[0] not in (names := table.schema_arrow.names):
            raise UserError(
                f"{self.chunk.file.path} has no column {self.path[0]!r}, only {names}",
                fix="name the column of the source with --upsample-source",
            )
        return [*found, self.path[0]]

    def see_batch(self, before: int, batch: Any) -> None:
        """Keep the sources of a batch of rows."""
        if self.of_file is None:  # else the column is not read
            for number, value in enumerate(batch.column(self.path[0]).to_pylist(), start=before + 1):
                self._see(number, value, self.path[1:])

    def _see(self, number: int, value: Any, path: list[str]) -> None:
        if self.of_file is not None:
            return
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            self.sources[number] = value


@dataclasses.dataclass(kw_only=True)
class UpsampleResult(ShardResult):
    """What a shard holds; `num_documents` are its candidates."""

    num_rows: int = 0  # documents that were read
    sizes: list[int]  # of the candidates of every source
    unknown_sources: dict[str, int] = dataclasses.field(default_factory=dict)  # without a budget -> documents

    def files(self, folder: Path, *, dtype: str) -> dict[Path, int]:
        """Return the files of the shard and their sizes in bytes."""
        rows = {part_file(folder, self.shard, ROWS): ROW.itemsize * self.num_rows}
        return super().files(folder, dtype=dtype) | rows


@dataclasses.dataclass(kw_only=True)
class UpsampleEncoder(TextEncoder):
    """Encodes the candidates among documents of text."""

    third = ROWS
    result: UpsampleResult = dataclasses.field(init=False)

    def _empty_result(self, number: int) -> UpsampleResult:
        assert self.config.upsample is not None, "the caller has it"
        self.options = self.config.upsample
        self.numbers = {name: source for source, name in enumerate(self.options.mixture)}
        self.rows: list[tuple[int, int, int, bool, bool]] = []  # fields in the order of ROW
        return UpsampleResult(shard=number, sizes=[0] * len(self.numbers))

    def reader(self, chunk: InputChunk) -> SourceReader:
        """Return what gives the documents of a chunk, and their sources."""
        self.source_reader = SourceReader(
            chunk, key=self.config.json_key, options=self.options, unknown_sources=self.result.unknown_sources
        )
        return self.source_reader

    def keeps(self, number: int, text: bytes, ids: NDArray[np.uint32]) -> bool:
        """Tell whether a document is a candidate, and note its row."""
        options = self.options
        tokens = len(self.before) + len(ids) + len(self.after)
        size = tokens if options.measure == "tokens" else len(text.decode("utf-8"))
        source = self.numbers[self.source_reader.sources[number]]
        long = options.is_long(size)
        candidate = long or draw(text, seed=options.seed) < options.keep
        self.rows.append((tokens, size, source, long, candidate))
        if candidate:
            self.result.sizes[source] += size
        return candidate

    def encode(self, reader: ChunkReader, texts: list[bytes], numbers: list[int]) -> None:
        """Encode a batch of documents and write their rows too."""
        super().encode(reader, texts, numbers)
        self.writer.third.write(np.array(self.rows, dtype=ROW).tobytes())  # type: ignore[union-attr]
        self.result.num_rows += len(self.rows)
        self.rows.clear()
        for number in numbers:
            del self.source_reader.sources[number]
