"""One shard of text: its documents become BOS + ids + EOS."""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.cutting import InputChunk
from meap_megatron.corpus.encode import Encoder, SpotCheck, make_encoder
from meap_megatron.corpus.noted import note
from meap_megatron.corpus.readers import ChunkReader
from meap_megatron.corpus.shard import NO_TEXT, Advance, EncodeJob, Runner, ShardResult, ShardState
from meap_megatron.indexed.pair import PairWriter

BATCH_BYTES = 2**20  # of text handed to the encoder at once
BATCH_DOCUMENTS = 4096
EMPTY = "empty"
"""Kind of a document without text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextJob(EncodeJob):
    """The same for text."""

    key: str
    bos_id: int | None  # opens every document, or None
    eos_id: int | None  # ends every document, or None
    bos_text: str | None

    def start(self) -> "Runner":
        """Load the tokenizer."""
        return TextEncoder(self)


class TextEncoder(Runner):
    """Encodes documents of text."""

    job: TextJob

    def __init__(self, job: TextJob) -> None:
        super().__init__(job)
        definition = job.definition()
        self.encoder: Encoder = make_encoder(job.encoder, definition)
        self.spot_check = SpotCheck(self.encoder, definition)

    def state(self, writer: PairWriter, report: Callable[[Advance], None]) -> "TextState":
        """Begin a shard."""
        return TextState(self, writer, report)


class TextState(ShardState):
    """The counts of one shard of text."""

    owner: TextEncoder

    def __init__(self, owner: TextEncoder, writer: PairWriter, report: Callable[[Advance], None]) -> None:
        super().__init__(owner, writer, report)
        self.job = owner.job
        self.before = [] if self.job.bos_id is None else [self.job.bos_id]
        self.after = [] if self.job.eos_id is None else [self.job.eos_id]
        self.bos_text = self.job.bos_text.encode() if self.job.bos_text else None
        self.num_bos_text = 0
        self.bos_text_place: str | None = None
        self.size_limit = (2**31 - 1) - 2  # tokens; Megatron's index holds lengths as int32

    def reader(self, chunk: InputChunk) -> ChunkReader:
        """Return what gives the documents of a chunk."""
        return ChunkReader(chunk, key=self.job.key)

    def keeps(self, number: int, text: bytes, ids: NDArray[np.uint32]) -> bool:
        """Tell whether a document of this shard is written: all are."""
        del number, text, ids
        return True

    def read(self, chunk: InputChunk) -> None:
        """Encode the documents of a chunk."""
        reader = self.reader(chunk)
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

    def encode(self, reader: ChunkReader, texts: list[bytes], numbers: list[int]) -> None:
        """Encode a batch of documents and write those that are kept."""
        if texts:
            self.owner.spot_check.check(texts)
        kept = []
        for number, text, ids in zip(numbers, texts, self.owner.encoder.encode(texts), strict=True):
            if self.bos_text is not None and text.startswith(self.bos_text):
                self.num_bos_text += 1
                self.bos_text_place = self.bos_text_place or reader.place(number)
            if self.owner.forbidden[ids].any():
                self.bad_lines.add(reader, number, f"the text {NO_TEXT}")
            elif not len(ids):
                note(self.dropped, EMPTY, reader, number)
            elif len(ids) > self.size_limit:
                reason = f"the document has {len(ids):,} tokens, an index allows at most 2^31 - 1"
                self.bad_lines.add(reader, number, reason)
            elif self.keeps(number, text, ids):
                kept.append(ids)
        self.writer.add(kept, before=self.before, after=self.after)
        self.advance(reader, text_bytes=sum(map(len, texts)), num_documents=len(kept))

    def result(self, number: int) -> ShardResult:
        """Return the counts."""
        found = super().result(number)
        return dataclasses.replace(found, num_bos_text=self.num_bos_text, bos_text_place=self.bos_text_place)
