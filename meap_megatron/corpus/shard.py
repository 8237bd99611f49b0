"""One shard: the documents of a few chunks, encoded into one finished pair in the work folder. What a worker does.

Shards depend on the inputs and the shard size only, never on the number of workers, and the output is their
concatenation in order; hence neither the number of workers nor an interruption can change a byte of it.
"""

import contextlib
import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from meap_megatron.atomic import disk_errors
from meap_megatron.corpus.cutting import InputChunk, cut
from meap_megatron.corpus.inputs import InputFile
from meap_megatron.corpus.noted import Noted
from meap_megatron.corpus.readers import RecordReader
from meap_megatron.corpus.settings import RunConfig
from meap_megatron.errors import UserError, counted
from meap_megatron.indexed.idx_header import optimal_dtype
from meap_megatron.indexed.pair import PairWriter
from meap_megatron.indexed.sidecar import TokenizerInfo

LISTED = 20  # bad lines named per shard; all are counted
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 8 * 2**20, 256 * 2**20
NO_TEXT = (
    "tokenizes to the id of a special token; if --mask-token, --bos-token or --eos-token names a word of the texts, "
    "choose another"
)
Shard = tuple[InputChunk, ...]


@dataclasses.dataclass(kw_only=True)
class ShardResult:
    """What a shard holds, counted while it is encoded; when it is finished, one line of the manifest."""

    shard: int
    num_documents: int = 0
    num_tokens: int = 0
    text_bytes: int = 0
    num_bad: int = 0
    bad_lines: list[str] = dataclasses.field(default_factory=list)  # "file:line: reason" of the first ones
    dropped: Noted = dataclasses.field(default_factory=dict)  # records that are lost, by kind
    unused: Noted = dataclasses.field(default_factory=dict)  # keys of records that are not used
    num_bos_text: int = 0  # documents whose text begins with the characters of the BOS token
    bos_text_place: str | None = None

    def files(self, folder: Path, *, dtype: str) -> dict[Path, int]:
        """Return the files of the shard and their sizes in bytes."""
        tokens, lengths = part_files(folder, self.shard)
        return {tokens: self.num_tokens * np.dtype(dtype).itemsize, lengths: 4 * self.num_documents}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advance:
    """Progress since the last report."""

    input_bytes: int
    text_bytes: int
    num_documents: int


def shard_bytes_for(files: list[InputFile], *, parts: int = 1) -> int:
    """Return the size of a shard: 1/64 of the input of one SLURM task, between 8 MiB and 256 MiB."""
    total = sum(file.size for file in files)
    return min(max(total // (64 * parts), MIN_SHARD_BYTES), MAX_SHARD_BYTES)


def plan_shards(files: list[InputFile], shard_bytes: int) -> list[Shard]:
    """Cut the files into chunks and group neighbouring chunks until a shard has `shard_bytes`."""
    shards: list[Shard] = []
    chunks: list[InputChunk] = []
    size = 0
    for file in files:
        for chunk in cut(file, shard_bytes):
            chunks.append(chunk)
            size += chunk.size
            if size >= shard_bytes:
                shards.append(tuple(chunks))
                chunks, size = [], 0
    return [*shards, tuple(chunks)] if chunks else shards


def part_file(folder: Path, shard: int, suffix: str) -> Path:
    """Return one of the files of a finished shard."""
    return folder / f"part-{shard:06d}.{suffix}"


def part_files(folder: Path, shard: int) -> tuple[Path, Path]:
    """Return the two files that every finished shard has: token ids, and int32 lengths of the documents."""
    return part_file(folder, shard, "bin"), part_file(folder, shard, "lengths")


@contextlib.contextmanager
def complete_together(final: Sequence[Path], *, dtype: str) -> Iterator[PairWriter]:
    """Write the files of a shard; they appear when all are complete, or not at all.

    Args:
        final: their names, all in one folder.
        dtype: type of a token id.

    Raises:
        RunError: the disk is full.
    """
    # The process id: a worker that outlived its killed parent must not share a file with its successor.
    temporary = [path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in final]
    with disk_errors(final[0].parent):
        writer = PairWriter(*temporary, dtype=dtype)
        try:
            yield writer
            writer.close()
            for source, target in zip(temporary, final, strict=True):
                os.replace(source, target)
        except BaseException:
            writer.abandon()
            for path in temporary:
                path.unlink(missing_ok=True)
            raise


@dataclasses.dataclass(kw_only=True)
class ShardEncoder(ABC):
    """Encodes shards one after the other in one process, to which it goes by pickle before `load`.

    Attributes:
        folder: the work folder; the tokenizer is in `folder`/tokenizer.
        encoder_name: "gigatoken" or "tokenizers".
        config: what the run was asked for.
        info: the tokenizer.
        special_ids: ids that no text may give.
        third: suffix of the third file of a shard, "" where it has two.
        result: of the shard that is being encoded.
    """

    folder: str
    encoder_name: str
    config: RunConfig
    info: TokenizerInfo
    special_ids: tuple[int, ...]
    third: ClassVar[str] = ""
    result: ShardResult = dataclasses.field(init=False)

    def load(self) -> None:
        """Make what a process needs to encode shards."""
        self.forbidden = np.zeros(self.info.vocab_size, dtype=bool)
        self.forbidden[list(self.special_ids)] = True

    def definition(self) -> str:
        """Return the extended tokenizer.json."""
        return (Path(self.folder) / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")

    def run(self, number: int, shard: Shard, report: Callable[[Advance], None]) -> ShardResult:
        """Encode one shard; its files appear when all are complete.

        Raises:
            UserError: an input is damaged, or there are more bad lines than allowed.
            RunError: the disk is full, or the encoders disagree.
        """
        folder = Path(self.folder)
        self.report, self.result = report, self._empty_result(number)
        third = [part_file(folder, number, self.third)] if self.third else []
        dtype = optimal_dtype(self.info.vocab_size)
        with complete_together([*part_files(folder, number), *third], dtype=dtype) as self.writer:
            for chunk in shard:
                self.reported = 0  # input bytes of this chunk
                self.read(chunk)
        self.result.num_documents, self.result.num_tokens = self.writer.num_documents, self.writer.num_tokens
        return self.result

    def _empty_result(self, number: int) -> ShardResult:
        return ShardResult(shard=number)

    @abstractmethod
    def read(self, chunk: InputChunk) -> None:
        """Encode what a chunk holds."""

    def advance(self, reader: RecordReader, *, text_bytes: int, num_documents: int) -> None:
        """Report a batch that was written."""
        self.result.text_bytes += text_bytes
        input_bytes = reader.consumed - self.reported
        self.reported = reader.consumed
        self.report(Advance(input_bytes=input_bytes, text_bytes=text_bytes, num_documents=num_documents))

    def note_bad(self, reader: RecordReader, number: int, reason: str) -> None:
        """Count a bad line, and list it if it is one of the first.

        Raises:
            UserError: there are more than allowed.
        """
        self.result.num_bad += 1
        if len(self.result.bad_lines) < LISTED:
            self.result.bad_lines.append(f"{reader.place(number)}: {reason}")
        check_bad_lines(self.result.num_bad, self.result.bad_lines, self.config.max_bad_lines)


def check_bad_lines(count: int, listed: list[str], limit: int) -> None:
    """Raise when there are more bad lines than allowed.

    Raises:
        UserError: names the lines.
    """
    if count > limit:
        lines = "\n  ".join(listed[:LISTED])
        raise UserError(
            f"found {counted(count, 'invalid line')}, limit is {limit} (--max-bad-lines):\n  {lines}",
            fix="fix the input, or raise the limit to skip them",
        )
