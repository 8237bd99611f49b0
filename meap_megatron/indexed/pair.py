"""Write and read Megatron's `.bin/.idx` without torch and without holding anything per document in memory.

The bytes equal those of Megatron's `IndexedDatasetBuilder` with one sequence per document. While documents are
written, their lengths go to a file of int32; the index is made from it in blocks. (Megatron's builder keeps Python
lists of all lengths and all pointers: 31 million documents needed terabytes.)
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import UserError
from meap_megatron.indexed.idx_header import HEADER_BYTES, IndexHeader, read_header
from meap_megatron.indexed.sidecar import bin_path, idx_path

BLOCK = 2**20  # documents handled at once


class PairWriter:
    """Append documents to a `.bin` and their lengths to a file of int32; all files may be read after `close`.

    Attributes:
        third: a file for what else there is to say of the documents; None without one.
    """

    def __init__(self, bin_file: Path, lengths_file: Path, third_file: Path | None = None, *, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.num_documents = 0
        self.num_tokens = 0
        self._bin: IO[bytes] = bin_file.open("wb")
        self._lengths: IO[bytes] = lengths_file.open("wb")
        self.third: IO[bytes] | None = third_file.open("wb") if third_file else None
        self._streams = [stream for stream in (self._bin, self._lengths, self.third) if stream]

    def add(self, documents: list[NDArray[np.uint32]], *, before: list[int], after: list[int]) -> None:
        """Append documents, each as `before` + ids + `after`.

        Args:
            documents: uint32[n] ids of each document.
            before: ids that open every document ([bos_id] or []).
            after: ids that end every document ([eos_id] or []).
        """
        if not documents:
            return
        head, tail = np.array(before, dtype=np.uint32), np.array(after, dtype=np.uint32)
        seam = np.concatenate([tail, head])
        parts: list[NDArray[np.uint32]] = [head]
        for ids in documents:
            parts += (ids, seam)
        parts[-1] = tail
        tokens = np.concatenate(parts, dtype=self.dtype, casting="unsafe")
        lengths = np.fromiter(map(len, documents), dtype=np.int32, count=len(documents)) + len(seam)
        self._bin.write(memoryview(tokens).cast("B"))
        self._lengths.write(memoryview(lengths.astype(np.int32)).cast("B"))
        self.num_documents += len(documents)
        self.num_tokens += len(tokens)

    def close(self) -> None:
        """Flush the files to the disk and close them."""
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()

    def abandon(self) -> None:
        """Close the files without a promise about their content."""
        for stream in self._streams:
            try:
                stream.close()
            except OSError:
                continue  # the disk is full; the file is thrown away anyway


def write_index(
    stream: IO[bytes],
    *,
    dtype: str,
    num_sequences: int,
    num_document_indices: int,
    lengths: Callable[[], Iterable[NDArray[np.int32]]],
    document_indices: Callable[[], Iterable[NDArray[np.int64]]],
) -> None:
    """Write an index in blocks.

    Args:
        stream: open for writing, at its start.
        dtype: type of a token id.
        num_sequences: number of all lengths.
        num_document_indices: number of all document indices (documents + 1).
        lengths: gives the sequence lengths in blocks, int32[n]; called twice.
        document_indices: gives the document indices in blocks, int64[n], 0 first.
    """
    header = IndexHeader(dtype=dtype, num_sequences=num_sequences, num_document_indices=num_document_indices)
    stream.write(header.pack())
    for block in lengths():
        stream.write(np.ascontiguousarray(block, dtype=np.int32).tobytes())
    pointer = np.int64(0)
    for block in lengths():
        ends = pointer + np.cumsum(block, dtype=np.int64) * np.dtype(dtype).itemsize
        stream.write(np.concatenate([[pointer], ends[:-1]]).astype(np.int64).tobytes() if len(block) else b"")
        pointer = ends[-1] if len(block) else pointer
    for indices in document_indices():
        stream.write(np.ascontiguousarray(indices, dtype=np.int64).tobytes())
    assert stream.tell() == header.file_bytes, "the counts disagree with the blocks"


def one_sequence_per_document(num_documents: int) -> Iterator[NDArray[np.int64]]:
    """Give the document indices 0, 1, ..., num_documents in blocks."""
    for start in range(0, num_documents + 1, BLOCK):
        yield np.arange(start, min(start + BLOCK, num_documents + 1), dtype=np.int64)


def length_blocks(files: Iterable[Path]) -> Iterator[NDArray[np.int32]]:
    """Give the content of files of int32 in blocks."""
    for path in files:
        with path.open("rb") as stream:
            while raw := stream.read(4 * BLOCK):
                yield np.frombuffer(raw, dtype=np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexedReader:
    """A pair opened through memory maps.

    Attributes:
        dtype: type of a token id.
        tokens: dtype[num_tokens], the whole .bin.
        lengths: int32[num_sequences], tokens of each sequence.
        pointers: int64[num_sequences], byte offset of each sequence in the .bin.
        document_indices: int64[num_documents + 1], first sequence of each document, and the end.
    """

    dtype: np.dtype
    tokens: NDArray
    lengths: NDArray[np.int32]
    pointers: NDArray[np.int64]
    document_indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> NDArray:
        """Return the ids of one sequence, dtype[length].

        Raises:
            UserError: the index points outside the .bin, or between two ids.
        """
        pointer, length = int(self.pointers[index]), int(self.lengths[index])
        start, rest = divmod(pointer, self.dtype.itemsize)
        if rest or start < 0 or length < 0 or start + length > len(self.tokens):
            raise UserError(
                f"sequence {index} of a .bin of {len(self.tokens):,} ids is said to have {length:,} ids from byte "
                f"{pointer:,} on: the .idx is damaged, or of other data",
                fix="see what `meap verify` says, and copy or make the dataset again",
            )
        return self.tokens[start : start + length]


def open_pair(prefix: str | Path) -> IndexedReader:
    """Open a pair for reading; the .bin is taken as it is (see `sidecar.check_prefix` and `verify`).

    Raises:
        UserError: the index is missing or malformed.
    """
    path = idx_path(prefix)
    header = read_header(path)
    dtype = np.dtype(header.dtype)
    n = header.num_sequences

    def view(kind: type, offset: int, count: int) -> NDArray:
        return np.memmap(path, kind, "r", offset, (count,)) if count else np.zeros(0, kind)

    num_tokens = bin_path(prefix).stat().st_size // dtype.itemsize
    return IndexedReader(
        dtype=dtype,
        tokens=np.memmap(bin_path(prefix), dtype, "r", 0, (num_tokens,)) if num_tokens else np.zeros(0, dtype),
        lengths=view(np.int32, HEADER_BYTES, n),
        pointers=view(np.int64, HEADER_BYTES + 4 * n, n),
        document_indices=view(np.int64, HEADER_BYTES + 12 * n, header.num_document_indices),
    )
