"""One shard of a length-upsampled corpus: its candidates, encoded, and a row for every document that was read."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.cutting import Piece
from meap_megatron.corpus.readers import Document, PieceReader
from meap_megatron.corpus.shard import (
    Advance,
    Shard,
    ShardEncoder,
    ShardJob,
    ShardResult,
    ShardState,
    complete_together,
    part_files,
)
from meap_megatron.corpus.upsample.selection import ROW, Upsample, draw, source_of_file
from meap_megatron.errors import UserError
from meap_megatron.indexed.pair import PairWriter


class SourceReader(PieceReader):
    """Stream the documents whose source has a budget that is not known to be met.

    Attributes:
        sources: number of a document -> its source; who takes the document takes its entry out.
        strangers: sources that have no budget -> their documents.
    """

    def __init__(self, piece: Piece, *, key: str, options: Upsample) -> None:
        super().__init__(piece, key=key)
        self.options = options
        self.of_file = source_of_file(piece.file.path, options.source)
        self.sources: dict[int, str] = {}
        self.strangers: dict[str, int] = {}
        self.path = options.source.split(".")
        if self.of_file is None and piece.file.kind == "txt":
            raise UserError(
                f"input {piece.file.path} is plain text, which has no key {options.source!r}; take the source of its "
                "documents from the files' place, with --upsample-source folder or file"
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
                self.strangers[source] = self.strangers.get(source, 0) + 1
            elif source not in self.piece.without:
                self.sources[number] = source
                yield number, text

    def document(self, number: int, record: dict[str, Any]) -> bytes | str:
        """Return the text of a JSON line, and keep its source."""
        self._see(number, record, self.path)
        return super().document(number, record)

    def columns(self, schema: Any) -> list[str]:
        """Return the columns of the text and of the source."""
        if self.of_file is None and self.path[0] not in schema.names:
            raise UserError(
                f"{self.piece.file.path} has no column {self.path[0]!r}, only {schema.names}; --upsample-source names it"
            )
        return super().columns(schema) + ([self.path[0]] if self.of_file is None else [])

    def see_batch(self, before: int, batch: Any) -> None:
        """Keep the sources of a batch of rows."""
        if self.of_file is None:
            for number, value in enumerate(batch.column(self.path[0]).to_pylist(), start=before + 1):
                self._see(number, value, self.path[1:])

    def _see(self, number: int, value: Any, path: list[str]) -> None:
        if self.of_file is not None:
            return
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            self.sources[number] = value


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpsampleJob(ShardJob):
    """What every shard of a run has in common; goes to the workers by pickle."""

    upsample: Upsample

    def start(self) -> "UpsampleEncoder":
        """Load what a process needs to encode shards."""
        return UpsampleEncoder(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpsampleResult(ShardResult):
    """What a finished shard holds; `num_documents` are its candidates."""

    num_rows: int  # documents that were read
    sizes: list[int]  # of the candidates of every source
    strangers: dict[str, int]  # sources without a budget -> documents

    def files(self, folder: Path, *, dtype: str) -> dict[Path, int]:
        """Return the files of the shard and their sizes in bytes."""
        return {**super().files(folder, dtype=dtype), rows_file(folder, self.shard): ROW.itemsize * self.num_rows}


def rows_file(folder: Path, shard: int) -> Path:
    """Return the third file of a finished shard: a ROW per document that was read."""
    return folder / f"part-{shard:06d}.rows"


class CandidateWriter(PairWriter):
    """Append candidates to a pair, and a row per document that was read to a third file."""

    def __init__(self, bin_file: Path, lengths_file: Path, rows: Path, *, dtype: str) -> None:
        super().__init__(bin_file, lengths_file, dtype=dtype)
        self.num_rows = 0
        self._rows: IO[bytes] = rows.open("wb")

    def add_rows(self, rows: list[tuple[int, int, int, bool, bool]]) -> None:
        """Append rows, fields in the order of ROW."""
        self._rows.write(np.array(rows, dtype=ROW).tobytes())
        self.num_rows += len(rows)

    def close(self) -> None:
        """Flush the files to the disk and close them."""
        self._rows.flush()
        os.fsync(self._rows.fileno())
        self._rows.close()
        super().close()

    def abandon(self) -> None:
        """Close the files without a promise about their content."""
        super().abandon()
        try:
            self._rows.close()
        except OSError:
            pass  # the disk is full; the file is thrown away anyway


class UpsampleEncoder(ShardEncoder):
    """Encode the candidates of shards one after the other with one loaded tokenizer."""

    job: UpsampleJob

    def run(self, number: int, shard: Shard, report: Callable[[Advance], None]) -> UpsampleResult:
        """Encode one shard; its three files appear when all are complete.

        Raises:
            UserError: an input is damaged, or there are more bad lines than allowed.
            RunError: the disk is full, or the encoders disagree.
        """
        folder = Path(self.job.folder)
        final = (*part_files(folder, number), rows_file(folder, number))
        with complete_together(final, lambda paths: CandidateWriter(*paths, dtype=self.job.dtype)) as writer:
            state = _CandidateState(self, writer, report)
            for piece in shard:
                state.read(piece)
        return UpsampleResult(
            **vars(state.result(number)),
            num_rows=writer.num_rows,
            sizes=state.sizes,
            strangers=state.strangers,
        )


class _CandidateState(ShardState):
    """The counts of one shard while it is being encoded."""

    writer: CandidateWriter

    def __init__(self, owner: UpsampleEncoder, writer: CandidateWriter, report: Callable[[Advance], None]) -> None:
        super().__init__(owner, writer, report)
        self.options = owner.job.upsample
        self.numbers = {name: number for number, name in enumerate(self.options.mixture)}
        self.sizes = [0] * len(self.numbers)
        self.strangers: dict[str, int] = {}
        self.rows: list[tuple[int, int, int, bool, bool]] = []

    def reader(self, piece: Piece) -> SourceReader:
        self.source_reader = SourceReader(piece, key=self.job.key, options=self.options)
        return self.source_reader

    def read(self, piece: Piece) -> None:
        super().read(piece)
        for name, count in self.source_reader.strangers.items():
            self.strangers[name] = self.strangers.get(name, 0) + count

    def keeps(self, number: int, text: bytes, ids: NDArray[np.uint32]) -> bool:
        options = self.options
        tokens = len(self.before) + len(ids) + len(self.after)
        size = tokens if options.measure == "tokens" else len(text.decode("utf-8"))
        source = self.numbers[self.source_reader.sources[number]]
        long = options.is_long(size)
        candidate = long or draw(text, seed=options.seed) < options.keep
        self.rows.append((tokens, size, source, long, candidate))
        if candidate:
            self.sizes[source] += size
        return candidate

    def encode(self, reader: PieceReader, texts: list[bytes], numbers: list[int]) -> None:
        super().encode(reader, texts, numbers)
        self.writer.add_rows(self.rows)
        self.rows.clear()
        for number in numbers:
            del self.source_reader.sources[number]
