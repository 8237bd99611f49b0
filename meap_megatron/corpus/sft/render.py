"""A conversation to the pieces of its rows, by one of our templates: the roles are known by construction."""

import dataclasses
from string import Formatter
from typing import Protocol

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.pieces import Piece, PieceBuilder, Specials, SpecialToken
from meap_megatron.corpus.sft.roles import ANSWER, END, PROMPT, UNMASKED
from meap_megatron.corpus.sft.templates import Template


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """What is common to all templates.

    Attributes:
        multi_turn: "history" (one row) or "split" (one row per turn, without history).
        system: system prompt of conversations that have none, None for the template's own.
        min_answer_words: answers of at most so many words are never masked; None for no such rule.
    """

    multi_turn: str = "history"
    system: str | None = None
    min_answer_words: int | None = None

    def answer_role(self, answer: Message) -> int:
        """Return the role of an answer's tokens."""
        if not answer.train:
            return PROMPT
        words = len((answer.content or "").split())
        short = self.min_answer_words is not None and words <= self.min_answer_words
        return UNMASKED if short else ANSWER


class Renderer(Protocol):
    """A template ready for a tokenizer."""

    def render(self, conversation: Conversation) -> list[list[Piece]] | str:
        """Return the pieces of each row of a conversation, or the reason why it cannot be rendered."""
        ...


class TemplateRenderer:
    """One of our templates.

    BOS opens the first turn, unless the template writes it itself; a later turn has none. Source, answer and a plain
    text end are encoded apart.
    """

    def __init__(
        self,
        template: Template,
        specials: Specials,
        *,
        bos_id: int | None,
        eos_id: int | None,
        options: RenderOptions,
    ) -> None:
        self.options = options
        self.bos_id = bos_id
        self.system = template.system if options.system is None else options.system
        self.opening = _compile(template.opening, specials)
        self.prompt = _compile(template.prompt, specials)
        self.later = _compile(template.separator + template.prompt, specials)
        self.end: list[str | SpecialToken]
        if template.end is None:
            assert eos_id is not None, "the caller refuses a tokenizer without EOS"
            self.end = [SpecialToken("", eos_id)]
        else:
            self.end = specials.split(template.end)

    def render(self, conversation: Conversation) -> list[list[Piece]] | str:
        """Return the pieces of each row, or the reason why the template does not fit."""
        found = in_turns(conversation)
        if isinstance(found, str):
            return found
        own, turns = found
        rows = []
        builder = PieceBuilder()
        system = self.system if own is None else own
        for number, (query, answer) in enumerate(turns):
            if self.options.multi_turn == "split":
                if not answer.train:
                    continue
                if builder.pieces:
                    rows.append(builder.finish())
                    builder = PieceBuilder()
            builder.start()
            self._source(builder, number, system, query.content or "")
            builder.start()
            role = self.options.answer_role(answer)
            builder.text(answer.content or "", role)
            builder.start()
            for part in self.end:
                _append(builder, part, END if answer.train else PROMPT)
        return [*rows, builder.finish()]

    def _source(self, builder: PieceBuilder, number: int, system: str, query: str) -> None:
        parts = self.later if number else self.opening if system else self.prompt
        if not number and self.bos_id is not None:
            opens = isinstance(parts[0], SpecialToken) and parts[0].token_id == self.bos_id
            if not opens:
                builder.known(self.bos_id, PROMPT)
        for part in parts:
            if isinstance(part, _Field):
                builder.text(system if part.name == "system" else query, PROMPT)
            else:
                _append(builder, part, PROMPT)


Turn = tuple[Message, Message]  # question, answer


def in_turns(conversation: Conversation) -> tuple[str | None, list[Turn]] | str:
    """Return the system prompt (None: there is none) and the questions with their answers, or why there are none."""
    messages = conversation.messages
    system = None
    if messages and messages[0].role == "system":
        system, messages = messages[0].content, messages[1:]
    for number, message in enumerate(messages):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            return f"role {message.role!r} where {expected!r} is expected: user and assistant take turns"
    if len(messages) < 2 or len(messages) % 2:
        return f"{len(messages)} messages beside the system prompt; each question needs an answer"
    return system, list(zip(messages[::2], messages[1::2], strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str  # "system" or "query"


def _compile(text: str, specials: Specials) -> list[str | SpecialToken | _Field]:
    """Cut a template's string at its fields and at the special tokens of its own text."""
    parts: list[str | SpecialToken | _Field] = []
    for literal, name, _, _ in Formatter().parse(text):
        parts += specials.split(literal)
        if name is not None:
            parts.append(_Field(name))
    return parts


def _append(builder: PieceBuilder, part: str | SpecialToken, role: int) -> None:
    if isinstance(part, SpecialToken):
        builder.special(part, role)
    else:
        builder.text(part, role)
