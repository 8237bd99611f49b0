"""Conversations to two aligned indexed datasets, ids and roles: the job of `meap preprocess sft`."""

import dataclasses
import datetime
import itertools
import re
from pathlib import Path
from typing import Any

from meap_megatron.corpus.borders import opening_id
from meap_megatron.corpus.dataset_work import PreprocessingWork
from meap_megatron.corpus.pipeline import run_work
from meap_megatron.corpus.sft.check import OPTIONS, trained_share
from meap_megatron.corpus.sft.histogram import as_table
from meap_megatron.corpus.sft.records import Record, RecordOptions, detect_format, to_record
from meap_megatron.corpus.sft.records_reader import ObjectReader
from meap_megatron.corpus.sft.settings import SftConfig
from meap_megatron.corpus.sft.shard import ROLES, SftEncoder, SftResult, merged_counts
from meap_megatron.corpus.sft.spans import template_specials
from meap_megatron.corpus.sft.template_fit import fit_template
from meap_megatron.corpus.sft.templates import DEFAULTS, TOKENIZER
from meap_megatron.corpus.shard import Shard, part_file
from meap_megatron.corpus.terminal import say
from meap_megatron.corpus.work_folder import parts_path, read_plan
from meap_megatron.errors import UserError, counted
from meap_megatron.indexed.sidecar import Sidecar, read_sidecar, sidecar_path
from meap_megatron.tokenizer.load import CorpusTokenizer

SAMPLE_ROWS = 32  # per sampled chunk
SAMPLE_CHARACTERS = 2**13  # of one text


def preprocess_sft(config: SftConfig) -> Sidecar:
    """Make the dataset of `config.prefix`.

    Returns:
        The sidecar of the finished dataset.

    Raises:
        UserError: an input, the tokenizer, the template, the output or a row breaks a rule; nothing is left under
            final names.
        RunError: a worker died or the disk is full; the same command with `resume` continues.
    """
    return run_work(SftWork(config))


class SftWork(PreprocessingWork[SftResult]):
    """Conversations: each becomes a row of ids and a row of roles."""

    unit = "conversation with an answer to train"
    result_type = SftResult

    def __init__(self, config: SftConfig) -> None:
        super().__init__(config, is_record=lambda record: _is_record(record, config), text=False)
        self.fitted = fit_template(
            config.template,
            self.tokenizer,
            source=config.tokenizer,
            answer_end=config.answer_end,
            date=config.date or _date_so_far(config),
        )
        if config.template is None:
            why = DEFAULTS[self.fitted.name]
            say(f"note: using template {self.fitted.name}: {why}; --template selects another")
        if self.fitted.date is not None and config.date is None:
            if config.shard is not None:
                raise UserError(
                    "the chat template writes today's date, which may differ between the parts of --shard",
                    fix=f"give all parts the same with --date {self.fitted.date}",
                )
            say(f"note: the chat template writes a date: {self.fitted.date} (--date)")
        config = dataclasses.replace(config, template=self.fitted.name)
        self.config: SftConfig = config
        if self.fitted.missing:
            say(
                f"warning: the tokenizer has no token {', '.join(self.fitted.missing)} of the template "
                f"{config.template!r}: encoded as plain text"
            )
        # A tokenizer's own chat template writes a BOS where it wants one.
        self.bos_id = (
            opening_id(self.tokenizer, add_bos=config.add_bos, source=config.tokenizer)
            if config.template != TOKENIZER
            else None
        )
        has_bos = self.bos_id is not None
        self.policy = {"kind": "sft", "add_bos": has_bos and config.multi_turn == "history", "add_eos": False}
        self.cut(
            config,
            **self._options(),
            format=config.format,
            columns=dict(config.columns),
            alpaca_prompt=config.stanford,
            system=config.system,
            add_bos=has_bos,
        )

    def encoding_tokenizer(self) -> CorpusTokenizer:
        """Return the tokenizer in which the template's tokens are plain text."""
        definition, _ = template_specials(self.tokenizer.definition, self.fitted.marks)
        return dataclasses.replace(self.tokenizer, definition=definition)

    def sample_of(self, shard: Shard) -> list[bytes]:
        """Return starts of questions and answers."""
        texts: list[str] = []
        options = self._record_options()
        for chunk in shard:
            for _, row in itertools.islice(ObjectReader(chunk, columns=self.config.columns.values()), SAMPLE_ROWS):
                found = to_record(row, options) if isinstance(row, dict) else row
                if isinstance(found, Record):
                    messages = found.conversation.messages
                    texts += [message.text for message in messages if message.role != "system"]
            if len(texts) >= 2 * SAMPLE_ROWS:
                break
        return [text[:SAMPLE_CHARACTERS].encode("utf-8") for text in texts if text]

    def shard_encoder(self, folder: Path, encoder: str) -> SftEncoder:
        """Return what encodes the shards into a work folder."""
        return SftEncoder(
            folder=str(folder),
            encoder_name=encoder,
            config=self.config,
            info=self.tokenizer.info,
            special_ids=self.fitted.forbidden_ids,
            fitted=self.fitted,
            bos_id=self.bos_id,
            records=self._record_options(),
        )

    def report(self, results: list[SftResult]) -> None:
        """Say which answers are empty or not closed."""
        if empty := sum(result.num_empty_answers for result in results):
            place = next(result.empty_answer_place for result in results if result.empty_answer_place)
            say(f"warning: {counted(empty, 'empty answer')} (first: {place}): the end token alone is trained")
        if unclosed := sum(result.num_unclosed for result in results):
            say(
                f"warning: the chat template puts no token behind {counted(unclosed, 'answer')}; the model does not learn "
                f"to end there"
            )

    def outcome(self, results: list[SftResult]) -> tuple[str, int, int]:
        """Return how many records were read and truncated."""
        counts = merged_counts(results)
        return "records", counts["read"], counts["truncated"]

    @property
    def dropped_texts(self) -> dict[str, str]:
        """What the kinds of rows are called that are dropped."""
        limit = self.config.max_length
        other = "" if self.config.template == TOKENIZER else "; --template tokenizer may have one"
        return {
            "long": f"of more than {limit} tokens",
            "untrained": f"without an answer in their first {limit} tokens",
            "unanswered": "without an answer to train",
            "functions": f"with functions, for which the template {self.config.template!r} has no place{other}",
        }

    def publish(self, folder: Path, results: list[SftResult], encoder: str, **fields: Any) -> Sidecar:
        """Join the shards, and their roles."""
        num_tokens = sum(result.num_tokens for result in results)
        num_trained = sum(result.num_trained_tokens for result in results)
        histogram = [sum(counts) for counts in zip(*(result.answer_lengths for result in results), strict=True)]
        sft = {
            **self._options(),
            **({} if self.config.system is None else {"system": self.config.system}),
            "counts": merged_counts(results),
            "num_trained_tokens": num_trained,
            "trained_share": trained_share(num_trained, num_tokens),
            "answer_length_histogram": as_table(histogram),
        }
        roles = [part_file(folder, result.shard, ROLES) for result in results]
        return super().publish(folder, results, encoder, role_sources=roles, sft=sft, **fields)

    def _options(self) -> dict[str, Any]:
        """Return the options that the sidecar holds."""
        made = {"template_fingerprint": self.fitted.template.fingerprint, "date": self.fitted.date}
        options = {name: made[name] if name in made else getattr(self.config, name) for name in OPTIONS}
        if self.fitted.date is None:
            del options["date"]
        return options

    def _record_options(self) -> RecordOptions:
        config = self.config
        names = re.findall(r"\w+", self.fitted.template.text) if config.template == TOKENIZER else ()
        return RecordOptions(
            format=config.format,
            columns=dict(config.columns),
            stanford=config.stanford,
            official=config.multi_turn == "split",
            known=frozenset(names),
            ignored=frozenset(config.ignore_keys),
        )


def _is_record(record: dict[str, Any], config: SftConfig) -> bool:
    """Tell whether the only object of a file is a record, and not metadata."""
    return detect_format(record) is not None or not record.keys().isdisjoint(config.columns.values())


def _date_so_far(config: SftConfig) -> datetime.date | None:
    """Return the date that the run to resume has written so far, or None."""
    if not config.resume:
        return None
    plan = read_plan(parts_path(config.prefix)) or {}
    found = plan.get("date")
    if found is None and sidecar_path(config.prefix).is_file():
        found = (read_sidecar(config.prefix).sft or {}).get("date")
    return None if found is None else datetime.date.fromisoformat(found)
