"""A conversation to the spans of its rows, by one of our templates: the roles are known by construction."""

import dataclasses
from string import Formatter
from typing import Protocol

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.spans import Span, SpanBuilder, Specials, SpecialToken
from meap_megatron.corpus.sft.templates import Template
from meap_megatron.indexed.roles import ANSWER, END, PROMPT, UNMASKED

SYSTEM = ("system", "developer")
NO_PLACE = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Keys of a message whose content our templates have no place for."""
ADVICE = "--template tokenizer uses the tokenizer's own chat template"


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
        if self.min_answer_words is None or answer.fields.get("tool_calls"):
            return ANSWER
        thoughts = (text for key, text in answer.fields.items() if key in NO_PLACE and isinstance(text, str))
        words = sum(len(text.split()) for text in (answer.content or "", *thoughts))
        return UNMASKED if words <= self.min_answer_words else ANSWER


class Renderer(Protocol):
    """A template ready for a tokenizer.

    Attributes:
        unused: names of what the last conversation contained and the template did not write.
    """

    unused: tuple[str, ...]

    def render(self, conversation: Conversation) -> list[list[Span]] | str:
        """Return the spans of each row of a conversation, or the reason why it cannot be rendered."""
        ...


def rows_of(conversation: Conversation, options: RenderOptions) -> list[tuple[Message, ...]]:
    """Return the messages of each row: of the whole conversation, or of one answer without what came before it.

    The system prompt of the options opens a row whose conversation has none.
    """
    messages = conversation.messages
    opening = tuple(one for one in messages[:1] if one.role in SYSTEM)
    messages = messages[len(opening) :]
    if not opening and options.system:
        opening = (Message(role="system", content=options.system),)
    if options.multi_turn == "history":
        return [opening + messages]
    rows = []
    start = 0
    for number, message in enumerate(messages):
        if message.role == "assistant":
            if message.train:
                rows.append(opening + messages[start : number + 1])
            start = number + 1
    return rows


class TemplateRenderer:
    """One of our templates.

    BOS opens the first turn, unless the template writes it itself; a later turn has none. Source, answer and a plain
    text end are encoded apart.
    """

    unused: tuple[str, ...] = ()

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
        self.opens_apart = bool(template.opens)
        self.opening, self.prompt, self.separator, self.opens, self.system_alone, self.query_alone = (
            _compile(text, specials)
            for text in (
                template.opening,
                template.prompt,
                template.separator,
                template.opens,
                template.opening.removesuffix(template.prompt),
                template.prompt.removesuffix(template.opens),
            )
        )
        self.end: list[str | SpecialToken]
        if template.end is None:
            assert eos_id is not None, "the caller refuses a tokenizer without EOS"
            self.end = [SpecialToken("", eos_id)]
        else:
            self.end = specials.split(template.end)

    def render(self, conversation: Conversation) -> list[list[Span]] | str:
        """Return the spans of each row, or the reason why the template does not fit."""
        if reason := _no_place(conversation, self.opens_apart):
            return reason
        messages, system = conversation.messages, self.system
        if messages and messages[0].role in SYSTEM:
            system, messages = messages[0].content or "", messages[1:]
        rows = []
        builder = SpanBuilder()
        split = self.options.multi_turn == "split"
        for number, (queries, answer) in enumerate(_turns(messages)):
            if split:
                if answer is None or not answer.train:
                    continue
                if builder.spans:
                    rows.append(builder.finish())
                    builder = SpanBuilder()
            builder.start()
            self._source(builder, number, system, queries, answered=answer is not None)
            builder.start()
            if answer is not None:
                builder.text(answer.content or "", self.options.answer_role(answer))
                builder.start()
                for part in self.end:
                    _append(builder, part, END if answer.train else PROMPT)
        return [*rows, builder.finish()]

    def _source(self, builder: SpanBuilder, number: int, system: str, queries: list[str], *, answered: bool) -> None:
        parts: list[str | SpecialToken] = []
        texts = {"system": system}
        if number:
            parts += _filled(self.separator, texts)
        if self.opens_apart:
            parts += _filled(self.system_alone if system and not number else [], texts)
            for query in queries:
                parts += _filled(self.query_alone, {"query": query})
            parts += _filled(self.opens if answered else [], texts)
        else:
            parts += _filled(self.prompt if number or not system else self.opening, {**texts, "query": queries[0]})
        if not number and self.bos_id is not None:
            opens = parts and isinstance(parts[0], SpecialToken) and parts[0].token_id == self.bos_id
            if not opens:
                builder.known(self.bos_id, PROMPT)
        for part in parts:
            _append(builder, part, PROMPT)


def _no_place(conversation: Conversation, opens_apart: bool) -> str | None:
    """Return what of a conversation our templates have no place for."""
    if conversation.tools:
        return f"the template has no place for 'tools'; {ADVICE}"
    messages = conversation.messages
    start = 1 if messages and messages[0].role in SYSTEM else 0
    for number, message in enumerate(messages):
        for key in NO_PLACE:
            if message.fields.get(key):
                return f"messages[{number}]: the template has no place for {key!r}; {ADVICE}"
        if number >= start and message.role not in ("user", "assistant"):
            where = " there; a system prompt opens the conversation" if message.role in SYSTEM else f"; {ADVICE}"
            return f"messages[{number}]: the template has no place for the role {message.role!r}{where}"
        if number >= start and not opens_apart and message.role != ("user", "assistant")[(number - start) % 2]:
            return (
                f"messages[{number}]: the template has no place for the role {message.role!r} there: user and assistant "
                f"take turns; {ADVICE}"
            )
    return None if len(messages) > start else "the conversation has no message beside the system prompt"


def _turns(messages: tuple[Message, ...]) -> list[tuple[list[str], Message | None]]:
    """Return the questions before each answer, and the answer; the last is None if questions end the conversation."""
    turns: list[tuple[list[str], Message | None]] = []
    queries: list[str] = []
    for message in messages:
        if message.role == "assistant":
            turns.append((queries, message))
            queries = []
        else:
            queries.append(message.content or "")
    return [*turns, (queries, None)] if queries else turns


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


def _filled(parts: list[str | SpecialToken | _Field], texts: dict[str, str]) -> list[str | SpecialToken]:
    """Return the parts with the texts in their fields; a text is cut nowhere."""
    return [texts[part.name] if isinstance(part, _Field) else part for part in parts]


def _append(builder: SpanBuilder, part: str | SpecialToken, role: int) -> None:
    if isinstance(part, SpecialToken):
        builder.special(part, role)
    else:
        builder.text(part, role)
