"""One shard: the documents of a few pieces, encoded into one finished pair in the work folder. What a worker does.

Shards depend on the inputs and the shard size only, never on the number of workers, and the output is their
concatenation in order; hence neither the number of workers nor an interruption can change a byte of it.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meap_megatron.atomic import disk_errors
from meap_megatron.corpus.cutting import Piece, cut
from meap_megatron.corpus.encode import Encoder, SpotCheck, make_encoder
from meap_megatron.corpus.inputs import InputFile
from meap_megatron.corpus.noted import Noted, note
from meap_megatron.corpus.readers import PieceReader, RecordReader
from meap_megatron.errors import UserError, counted
from meap_megatron.indexed.pair import PairWriter

BATCH_BYTES = 2**20  # of text handed to the encoder at once
BATCH_DOCUMENTS = 4096
LISTED = 20  # bad lines named per shard; all are counted
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 8 * 2**20, 256 * 2**20
NO_TEXT = (
    "gives the id of a special token, which no text may; if --mask-token, --bos-token or --eos-token names a word of the "
    "texts, give another"
)
EMPTY = "empty"
"""Kind of a document without text."""
Shard = tuple[Piece, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What every shard of a run has in common; goes to the workers by pickle."""

    folder: str  # the work folder
    definition_file: str  # the extended tokenizer.json
    encoder: str
    key: str
    bos_id: int | None  # opens every document, or None
    eos_id: int | None  # ends every document, or None
    special_ids: tuple[int, ...]  # no text may give them
    vocab_size: int
    bos_text: str | None
    dtype: str
    max_bad_lines: int

    def start(self) -> "ShardEncoder":
        """Load what a process needs to encode shards."""
        return ShardEncoder(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What a finished shard holds; one line of the manifest."""

    shard: int
    num_documents: int
    num_tokens: int
    text_bytes: int
    num_bad: int
    bad_lines: tuple[str, ...]  # "file:line: reason" of the first ones
    num_bos_text: int  # documents whose text begins with the characters of the BOS token
    bos_text_place: str | None
    dropped: Noted  # rows that are lost, by kind
    unused: Noted  # keys of rows that are not used

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


class Runner(Protocol):
    """Encodes shards one after the other in one process."""

    def run(self, number: int, shard: Shard, report: Callable[[Advance], None]) -> ShardResult:
        """Encode one shard; its files appear when all are complete."""
        ...


class EncodeJob(Protocol):
    """What every shard of a run has in common; goes to the workers by pickle."""

    def start(self) -> Runner:
        """Load what a process needs to encode shards."""
        ...


def shard_bytes_for(files: list[InputFile], *, parts: int = 1) -> int:
    """Return the size of a shard: 1/64 of the input of one SLURM task, between 8 MiB and 256 MiB."""
    total = sum(file.size for file in files)
    return min(max(total // (64 * parts), MIN_SHARD_BYTES), MAX_SHARD_BYTES)


def plan_shards(
    files: list[InputFile], shard_bytes: int, *, cut: Callable[[InputFile, int], list[Piece]] = cut
) -> list[Shard]:
    """Cut the files into pieces and group neighbouring pieces until a shard has `shard_bytes`."""
    shards: list[Shard] = []
    pieces: list[Piece] = []
    size = 0
    for file in files:
        for piece in cut(file, shard_bytes):
            pieces.append(piece)
            size += piece.size
            if size >= shard_bytes:
                shards.append(tuple(pieces))
                pieces, size = [], 0
    return [*shards, tuple(pieces)] if pieces else shards


def part_files(folder: Path, shard: int) -> tuple[Path, Path]:
    """Return the two files of a finished shard: token ids, and int32 lengths of the documents."""
    return folder / f"part-{shard:06d}.bin", folder / f"part-{shard:06d}.lengths"


@contextlib.contextmanager
def complete_together[W: PairWriter](final: Sequence[Path], open_writer: Callable[[list[Path]], W]) -> Iterator[W]:
    """Write files that appear when all are complete, or not at all.

    Args:
        final: their names, all in one folder.
        open_writer: opens a writer for temporary names of them.

    Raises:
        RunError: the disk is full.
    """
    # The process id: a worker that outlived its killed parent must not share a file with its successor.
    temporary = [path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in final]
    with disk_errors(final[0].parent):
        writer = open_writer(temporary)
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


class ShardEncoder:
    """Encode shards one after the other with one loaded tokenizer."""

    def __init__(self, job: ShardJob) -> None:
        definition = Path(job.definition_file).read_text(encoding="utf-8")
        self.job = job
        self.encoder: Encoder = make_encoder(job.encoder, definition)
        self.spot_check = SpotCheck(self.encoder, definition)
        self.forbidden = np.zeros(job.vocab_size, dtype=bool)
        self.forbidden[list(job.special_ids)] = True

    def run(self, number: int, shard: Shard, report: Callable[[Advance], None]) -> ShardResult:
        """Encode one shard; its two files appear when both are complete.

        Raises:
            UserError: an input is damaged, or there are more bad lines than allowed.
            RunError: the disk is full, or the encoders disagree.
        """
        final = part_files(Path(self.job.folder), number)
        with complete_together(final, lambda paths: PairWriter(*paths, dtype=self.job.dtype)) as writer:
            state = ShardState(self, writer, report)
            for piece in shard:
                state.read(piece)
        return state.result(number)


class ShardState:
    """The counts of one shard while it is being encoded."""

    def __init__(self, owner: ShardEncoder, writer: PairWriter, report: Callable[[Advance], None]) -> None:
        self.owner, self.job, self.writer, self.report = owner, owner.job, writer, report
        self.before = [] if self.job.bos_id is None else [self.job.bos_id]
        self.after = [] if self.job.eos_id is None else [self.job.eos_id]
        self.bos_text = self.job.bos_text.encode() if self.job.bos_text else None
        self.text_bytes = self.num_bos_text = 0
        self.dropped: Noted = {}
        self.bad_lines = BadLines(self.job.max_bad_lines)
        self.bos_text_place: str | None = None
        self.reported = 0  # input bytes of the current piece
        self.size_limit = (2**31 - 1) - 2  # tokens; Megatron's index holds lengths as int32

    def reader(self, piece: Piece) -> PieceReader:
        """Return what gives the documents of a piece."""
        return PieceReader(piece, key=self.job.key)

    def keeps(self, number: int, text: bytes, ids: NDArray[np.uint32]) -> bool:
        """Tell whether a document of this shard is written: all are."""
        del number, text, ids
        return True

    def read(self, piece: Piece) -> None:
        """Encode the documents of a piece."""
        reader = self.reader(piece)
        self.reported = 0
        texts: list[bytes] = []
        numbers: list[int] = []
        size = 0
        for number, text in reader:
            if isinstance(text, str):
                self.bad_lines.add(reader, number, text)
            elif not text:
                note(self.dropped, EMPTY, reader, number)
            else:
                texts.append(text)
                numbers.append(number)
                size += len(text)
                if size >= BATCH_BYTES or len(texts) >= BATCH_DOCUMENTS:
                    self.encode(reader, texts, numbers)
                    texts, numbers, size = [], [], 0
        self.encode(reader, texts, numbers)

    def encode(self, reader: PieceReader, texts: list[bytes], numbers: list[int]) -> None:
        """Encode a batch of documents and write those that are kept."""
        if texts:
            self.owner.spot_check.check(texts)
        arrays = self.owner.encoder.encode(texts)
        kept = []
        for number, text, ids in zip(numbers, texts, arrays, strict=True):
            if self.bos_text is not None and text.startswith(self.bos_text):
                self.num_bos_text += 1
                self.bos_text_place = self.bos_text_place or reader.place(number)
            if self.owner.forbidden[ids].any():
                self.bad_lines.add(reader, number, f"the text {NO_TEXT}")
            elif not len(ids):
                note(self.dropped, EMPTY, reader, number)
            elif len(ids) > self.size_limit:
                reason = f"the document has {len(ids):,} tokens, an index holds at most 2^31 - 1"
                self.bad_lines.add(reader, number, reason)
            elif self.keeps(number, text, ids):
                kept.append(ids)
        self.writer.add(kept, before=self.before, after=self.after)
        size = sum(map(len, texts))
        self.text_bytes += size
        advance = reader.consumed - self.reported
        self.reported = reader.consumed
        self.report(Advance(input_bytes=advance, text_bytes=size, num_documents=len(kept)))

    def result(self, number: int) -> ShardResult:
        """Return the counts."""
        return ShardResult(
            shard=number,
            num_documents=self.writer.num_documents,
            num_tokens=self.writer.num_tokens,
            text_bytes=self.text_bytes,
            num_bad=self.bad_lines.count,
            bad_lines=tuple(self.bad_lines.listed),
            num_bos_text=self.num_bos_text,
            bos_text_place=self.bos_text_place,
            dropped=self.dropped,
            unused={},
        )


class BadLines:
    """The bad lines of one shard: all are counted, the first ones are listed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.listed: list[str] = []

    def add(self, reader: RecordReader, number: int, reason: str) -> None:
        """Note one.

        Raises:
            UserError: there are more than allowed.
        """
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(f"{reader.place(number)}: {reason}")
        check_bad_lines(self.count, self.listed, self.limit)


def check_bad_lines(count: int, listed: list[str], limit: int) -> None:
    """Raise when there are more bad lines than allowed.

    Raises:
        UserError: names the lines.
    """
    if count > limit:
        lines = "\n  ".join(listed[:LISTED])
        raise UserError(
            f"{counted(count, 'bad line')}, allowed are {limit} (--max-bad-lines):\n  {lines}\n"
            f"fix the input, or allow and skip bad lines with --max-bad-lines N"
        )
