"""Turn the chunks of one shard into rows of ids and roles. A shard's bytes depend on its input and the options only."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.cutting import InputChunk
from meap_megatron.corpus.noted import merged, note
from meap_megatron.corpus.sft.conversation import Conversation
from meap_megatron.corpus.sft.encode import PieceEncoder
from meap_megatron.corpus.sft.histogram import BOUNDS, count_lengths
from meap_megatron.corpus.sft.records import Dropped, RecordOptions, to_record
from meap_megatron.corpus.sft.records_reader import ObjectReader
from meap_megatron.corpus.sft.render import RenderOptions
from meap_megatron.corpus.sft.settings import SftConfig
from meap_megatron.corpus.sft.spans import Known, Span, TextRun
from meap_megatron.corpus.sft.template_fit import Fitted
from meap_megatron.corpus.sft.templates import TOKENIZER
from meap_megatron.corpus.sft.turns import function_names
from meap_megatron.corpus.shard import NO_TEXT, ShardEncoder, ShardResult, part_file
from meap_megatron.indexed.roles import PROMPT, answer_lengths, num_unclosed, truncate

BATCH_ROWS = 1024  # conversations rendered and encoded together
BATCH_CHARACTERS = 2**20
COUNTS = ("read", "kept", "truncated")
ROLES = "roles"
"""Suffix of the third file of a finished shard: one byte per token."""
DROPPED = ("long", "untrained", "unanswered", "functions")
"""Kinds of rows that are lost."""


@dataclasses.dataclass(kw_only=True)
class SftResult(ShardResult):
    """What a shard holds; `num_documents` are its rows."""

    counts: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    """By the names of COUNTS; bad records are `num_bad`, lost ones `dropped`."""
    num_trained_tokens: int = 0
    num_empty_answers: int = 0
    empty_answer_place: str | None = None  # the first
    num_unclosed: int = 0  # trained answers that no end token closes
    answer_lengths: list[int] = dataclasses.field(default_factory=lambda: [0] * len(BOUNDS))
    """Before truncation, by the ranges of histogram.BOUNDS."""

    def files(self, folder: Path, *, dtype: str) -> dict[Path, int]:
        """Return the files of the shard and their sizes in bytes."""
        return super().files(folder, dtype=dtype) | {part_file(folder, self.shard, ROLES): self.num_tokens}


@dataclasses.dataclass(kw_only=True)
class SftEncoder(ShardEncoder):
    """Encodes conversations."""

    config: SftConfig
    fitted: Fitted
    bos_id: int | None
    records: RecordOptions
    third = ROLES
    result: SftResult = dataclasses.field(init=False)

    def load(self) -> None:
        """Load the tokenizer and the template too."""
        super().load()
        config = self.config
        options = RenderOptions(
            multi_turn=config.multi_turn, system=config.system, min_answer_words=config.min_answer_words
        )
        self.renderer, definition = self.fitted.load(
            self.definition(), bos_id=self.bos_id, eos_id=self.info.eos_id, options=options
        )
        self.encoder = PieceEncoder(self.encoder_name, definition)

    def _empty_result(self, number: int) -> SftResult:
        return SftResult(shard=number)

    def read(self, chunk: InputChunk) -> None:
        """Encode the conversations of a chunk."""
        reader = ObjectReader(chunk, columns=self.records.columns.values())
        number = size = 0
        batch: list[tuple[int, list[Span]]] = []
        for number, given in reader:
            self.result.counts["read"] += 1
            record = to_record(given, self.records) if isinstance(given, dict) else given
            if isinstance(record, str):
                self.note_bad(reader, number, record)
                continue
            for name in record.unused:
                note(self.result.unused, name, reader, number)
            if isinstance(record, Dropped):
                note(self.result.dropped, record.kind, reader, number)
                continue
            found = record.conversation
            functions = function_names(found)
            if functions is not None and self.config.template != TOKENIZER:
                note(self.result.dropped, "functions", reader, number)
                continue
            rendered = self.renderer.render(found)
            if isinstance(rendered, str):
                self.note_bad(reader, number, rendered)
                continue
            if functions and not all(shows(spans, functions) for spans in rendered):
                note(self.result.dropped, "functions", reader, number)
                continue
            for name in self.renderer.unused:
                if name not in self.records.ignored:
                    note(self.result.unused, name, reader, number)
            self.note_empty(reader, number, found)
            batch += [(number, spans) for spans in rendered]
            size += sum(len(message.text) for message in found.messages)
            if size >= BATCH_CHARACTERS or len(batch) >= BATCH_ROWS:
                self.encode(reader, batch)
                batch, size = [], 0
        self.encode(reader, batch)
        for name in reader.unread:
            if name not in self.records.ignored:
                note(self.result.unused, name, reader, 1, count=number)

    def note_empty(self, reader: ObjectReader, number: int, conversation: Conversation) -> None:
        """Count the answers of a conversation that say nothing."""
        answers = (message for message in conversation.messages if message.trained)
        empty = sum(not message.content and not message.fields.get("tool_calls") for message in answers)
        if empty and not self.result.num_empty_answers:
            self.result.empty_answer_place = reader.place(number)
        self.result.num_empty_answers += empty

    def encode(self, reader: ObjectReader, batch: list[tuple[int, list[Span]]]) -> None:
        """Encode and write a batch of rows; a conversation of which one row is bad loses that row only."""
        kept: list[NDArray[np.uint32]] = []
        kept_roles: list[NDArray[np.uint8]] = []
        lengths: list[NDArray[np.int64]] = []
        rows, num_bytes = self.encoder.encode([spans for _, spans in batch])
        for (number, spans), (ids, roles) in zip(batch, rows, strict=True):
            if not roles.any():
                note(self.result.dropped, "unanswered", reader, number)
                continue
            written = sum(bool(self.forbidden[span.token_id]) for span in spans if isinstance(span, Known))
            if np.count_nonzero(self.forbidden[ids]) > written:
                self.note_bad(reader, number, f"a text {NO_TEXT}")
                continue
            self.result.num_unclosed += num_unclosed(roles)
            fitted = self.fit(ids, roles)
            if isinstance(fitted, str):
                note(self.result.dropped, fitted, reader, number)
                continue
            kept.append(fitted[0])
            kept_roles.append(fitted[1])
            lengths.append(answer_lengths(roles, before=len(fitted[1])))
            self.result.num_trained_tokens += int(np.count_nonzero(fitted[1]))
        self.writer.add(kept, before=[], after=[])
        if kept:
            self.writer.third.write(memoryview(np.concatenate(kept_roles)))  # type: ignore[union-attr]
            counted = count_lengths(np.concatenate(lengths))
            self.result.answer_lengths = [a + b for a, b in zip(self.result.answer_lengths, counted, strict=True)]
        self.result.counts["kept"] += len(kept)
        self.advance(reader, text_bytes=num_bytes, num_documents=len(kept))

    def fit(
        self, ids: NDArray[np.uint32], roles: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8]] | str:
        """Return the row within the longest length, or why it is dropped, one of `DROPPED`."""
        limit = self.config.max_length
        if limit is None or len(ids) <= limit:
            return ids, roles
        if self.config.over_long == "drop":
            return "long"
        ids, roles = truncate(ids, roles, max_length=limit)
        if not np.any(roles != PROMPT):
            return "untrained"
        self.result.counts["truncated"] += 1
        return ids, roles


def shows(spans: list[Span], names: set[str]) -> bool:
    """Tell whether the text of a row has all these names in it."""
    text = "".join(span.text for span in spans if isinstance(span, TextRun))
    return all(name in text for name in names)


def merged_counts(results: list[SftResult]) -> dict[str, Any]:
    """Return the counts of a run, bad records included."""
    counts: dict[str, Any] = {name: sum(result.counts[name] for result in results) for name in COUNTS}
    dropped = merged(result.dropped for result in results)
    counts |= {f"dropped_{kind}": dropped[kind][0] if kind in dropped else 0 for kind in DROPPED}
    return {**counts, "bad": sum(result.num_bad for result in results)}
