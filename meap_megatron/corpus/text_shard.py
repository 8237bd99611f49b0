"""One shard of text: its documents become BOS + ids + EOS."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.cutting import InputChunk
from meap_megatron.corpus.encode import SpotCheck, make_encoder
from meap_megatron.corpus.noted import note
from meap_megatron.corpus.readers import ChunkReader
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.shard import NO_TEXT, ShardEncoder

BATCH_BYTES = 2**20  # of text handed to the encoder at once
BATCH_DOCUMENTS = 4096
SIZE_LIMIT = (2**31 - 1) - 2  # tokens; Megatron's index holds lengths as int32
EMPTY = "empty"
"""Kind of a document without text."""


@dataclasses.dataclass(kw_only=True)
class TextEncoder(ShardEncoder):
    """Encodes documents of text."""

    config: PreprocessConfig
    bos_id: int | None  # opens every document, or None
    eos_id: int | None  # ends every document, or None
    bos_text: str | None

    def load(self) -> None:
        """Load the tokenizer too."""
        super().load()
        definition = self.definition()
        self.encoder = make_encoder(self.encoder_name, definition)
        self.spot_check = SpotCheck(self.encoder, definition)
        self.before = [] if self.bos_id is None else [self.bos_id]
        self.after = [] if self.eos_id is None else [self.eos_id]
        self.bos_bytes = self.bos_text.encode() if self.bos_text else None

    def reader(self, chunk: InputChunk) -> ChunkReader:
        """Return what gives the documents of a chunk."""
        return ChunkReader(chunk, key=self.config.json_key)

    def keeps(self, number: int, text: bytes, ids: NDArray[np.uint32]) -> bool:
        """Tell whether a document of this shard is written: all are."""
        del number, text, ids
        return True

    def read(self, chunk: InputChunk) -> None:
        """Encode the documents of a chunk."""
        reader = self.reader(chunk)
        texts: list[bytes] = []
        numbers: list[int] = []
        size = 0
        for number, text in reader:
            if isinstance(text, str):
                self.note_bad(reader, number, text)
            elif not text:
                note(self.result.dropped, EMPTY, reader, number)
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
            self.spot_check.check(texts)
        kept = []
        for number, text, ids in zip(numbers, texts, self.encoder.encode(texts), strict=True):
            if self.bos_bytes is not None and text.startswith(self.bos_bytes):
                self.result.num_bos_text += 1
                self.result.bos_text_place = self.result.bos_text_place or reader.place(number)
            if self.forbidden[ids].any():
                self.note_bad(reader, number, f"the text {NO_TEXT}")
            elif not len(ids):
                note(self.result.dropped, EMPTY, reader, number)
            elif len(ids) > SIZE_LIMIT:
                reason = f"the document has {len(ids):,} tokens, an index allows at most 2^31 - 1"
                self.note_bad(reader, number, reason)
            elif self.keeps(number, text, ids):
                kept.append(ids)
        self.writer.add(kept, before=self.before, after=self.after)
        self.advance(reader, text_bytes=sum(map(len, texts)), num_documents=len(kept))
