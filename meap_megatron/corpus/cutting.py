"""Cut an input file into chunks: the units that are read in one go, of which shards are made."""

import dataclasses
from collections.abc import Iterator

from meap_megatron.corpus import hub
from meap_megatron.corpus.inputs import InputFile
from meap_megatron.corpus.json_values import json_values
from meap_megatron.corpus.streams import open_stream, reading


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputChunk:
    """A part of one file.

    Bytes [start, stop) of a plain file: the lines that *start* in it, or whole values of an array or of objects. Row
    groups [start, stop) of a parquet file. Shard `start` of a data set of the Hub. All of a compressed or transcoded file.
    """

    file: InputFile
    start: int
    stop: int
    size: int  # bytes of input, for progress and for cutting
    without: frozenset[str] = frozenset()  # sources whose documents are passed over (length upsampling)


def cut(file: InputFile, chunk_bytes: int) -> list[InputChunk]:
    """Cut one file into chunks of about `chunk_bytes`; the chunks depend on the file and the size only.

    Where the values of an array begin only a parser can tell, so that such a file is parsed once to cut it.

    Raises:
        UserError: the file cannot be read, or its JSON array is damaged.
    """
    if file.kind == hub.KIND:
        shards = hub.num_shards(file.path)
        size = max(file.size // shards, 1)
        return [InputChunk(file=file, start=shard, stop=shard + 1, size=size) for shard in range(shards)]
    if file.kind == "parquet":
        return _row_groups(file, chunk_bytes)
    if file.kind == "txt" or not file.seekable:
        return [InputChunk(file=file, start=0, stop=file.size, size=file.size)]
    spans = _lines(file, chunk_bytes) if file.kind == "jsonl" else _values(file, chunk_bytes)
    return [InputChunk(file=file, start=start, stop=stop, size=stop - start) for start, stop in spans]


def _lines(file: InputFile, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, file.size, chunk_bytes):
        yield start, min(start + chunk_bytes, file.size)


def _values(file: InputFile, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Give the bounds of chunks of an array or of a sequence of objects, between two values."""
    begin = stop = 0
    with reading(file.path), open_stream(file.path, compression="", encoding="") as (stream, _):
        for _, start, raw in json_values(stream, brackets=file.kind == "array", place=file.path):
            begin = start if stop <= begin else begin
            stop = start + len(raw)
            if stop - begin >= chunk_bytes:
                yield begin, stop
                begin = stop
    if stop > begin:
        yield begin, stop


def _row_groups(file: InputFile, chunk_bytes: int) -> list[InputChunk]:
    with reading(file.path):
        import pyarrow.parquet

        metadata = pyarrow.parquet.read_metadata(file.path)
        sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    chunks: list[InputChunk] = []
    start = 0
    for group in range(len(sizes)):
        size = sum(sizes[start : group + 1])
        if size >= chunk_bytes or group == len(sizes) - 1:
            chunks.append(InputChunk(file=file, start=start, stop=group + 1, size=size))
            start = group + 1
    return chunks
