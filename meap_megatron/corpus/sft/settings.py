"""What `meap preprocess sft` can be asked to do."""

import dataclasses
import datetime
from collections.abc import Mapping

from meap_megatron.corpus.settings import RunConfig
from meap_megatron.corpus.sft.record_keys import ALPACA_PROMPTS, COLUMNS, FORMATS
from meap_megatron.corpus.sft.templates import TEMPLATES, TOKENIZER
from meap_megatron.errors import UserError

MULTI_TURN = ("history", "split")
OVER_LONG = ("truncate", "drop")
ANSWER_ENDS = ("template", "eos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig(RunConfig):
    """What `meap preprocess sft` is asked to do.

    Attributes:
        template: name of a template, "tokenizer" for the tokenizer's own, None for one that the tokenizer is made for.
        answer_end: "template", or "eos" to end answers with EOS whatever the template, as in the official code.
        date: what a chat template writes that asks for the date; None for today, or the date of the run to resume.
        format: "alpaca", "pairs", "sharegpt" or "messages"; None to tell it by the keys of each record.
        columns: what a column means (a key of `record_keys.COLUMNS`) -> the key of the records that has it.
        ignore_keys: keys of records that are known not to be used, so that nothing is said of them.
        alpaca_prompt: "plain" or "stanford"; None for "stanford" with the template `alpaca`, else "plain".
        system: system prompt of conversations without one; None for the template's, "" for none.
        multi_turn: "history" (a conversation is one row) or "split" (a turn is one row, without history).
        max_length: most tokens of a row; None for no limit.
        over_long: "truncate" or "drop" longer rows.
        min_answer_words: answers of at most so many words are never masked; None for no such rule.
    """

    template: str | None = None
    answer_end: str = "template"
    date: datetime.date | None = None
    format: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignore_keys: tuple[str, ...] = ()
    alpaca_prompt: str | None = None
    system: str | None = None
    multi_turn: str = "history"
    max_length: int | None = None
    over_long: str = "truncate"
    min_answer_words: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (
            ("--template", self.template, (None, *TEMPLATES, TOKENIZER)),
            ("--answer-end", self.answer_end, ANSWER_ENDS),
            ("--format", self.format, (None, *FORMATS)),
            ("--alpaca-prompt", self.alpaca_prompt, (None, *ALPACA_PROMPTS)),
            ("--multi-turn", self.multi_turn, MULTI_TURN),
            ("--over-long", self.over_long, OVER_LONG),
        ):
            if value not in known:
                raise UserError(f"{name} is {value!r}, it is one of {', '.join(filter(None, known))}")
        for name, number, least in (
            ("--max-length", self.max_length, 2),
            ("--min-answer-words", self.min_answer_words, 0),
        ):
            if number is not None and number < least:
                raise UserError(f"{name} is {number}, it must be at least {least}")

        self._check_columns()

    def _check_columns(self) -> None:
        names = set(self.columns)
        if unknown := sorted(names - COLUMNS.keys()):
            raise UserError(f"--columns: {unknown[0]!r} is not one of {', '.join(COLUMNS)}")
        needed = {"messages"} if "messages" in names else {"question", "answer"}
        if names and (missing := sorted(needed - names)):
            raise UserError(f"--columns names no column for {missing[0]!r}; it needs question and answer, or messages")
        if "messages" in names and (more := sorted(names & {"question", "answer", "input", "history"})):
            raise UserError(f"--columns: messages contain {more[0]!r} themselves", fix="name one of both")
        if names and self.format not in (None, "messages" if "messages" in names else "pairs", "alpaca"):
            raise UserError(
                f"--columns and --format {self.format}: the columns say what a record is", fix="leave --format out"
            )
        if len(set(self.columns.values())) < len(names):
            raise UserError("--columns names one column twice")

    @property
    def stanford(self) -> str | None:
        """How Alpaca's question is worded, as `records.to_conversation` takes it."""
        wording = self.alpaca_prompt or ("stanford" if self.template == "alpaca" else "plain")
        if wording == "plain":
            return None
        return "template" if self.template == "alpaca" else "message"
