"""A conversation to the spans of its rows by the tokenizer's own chat template.

A special token that a user typed is replaced by one private-use character before rendering and put back as plain text
afterwards, so that the only special tokens are those that the template writes.
"""

import re
from collections.abc import Callable
from typing import Any

from meap_megatron.corpus.sft.anatomy import Anatomy
from meap_megatron.corpus.sft.chat_template import ChatTemplate, Messages
from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.locate import Found, Locator, generated
from meap_megatron.corpus.sft.render import RenderOptions, rows_of
from meap_megatron.corpus.sft.spans import Span, SpanBuilder, Specials
from meap_megatron.errors import UserError
from meap_megatron.indexed.roles import END, PROMPT

PLANES = (0xF0000, 0x100000)
"""Starts of the two private-use planes, 65,534 characters each."""
PLANE = 65_534
PRIVATE = re.compile(f"[{chr(PLANES[0])}-{chr(0x10FFFF)}]")
ESCAPED = re.compile(r"\\U(000f[0-9a-f]{4}|0010[0-9a-f]{4})")
"""The same characters in what Python writes of data."""
MARKS = 8192  # characters by which answers are located
SHORT = 16  # characters


class ChatRenderer:
    """The chat template of a tokenizer; `specials` are the tokens that it may write."""

    def __init__(
        self, template: ChatTemplate, anatomy: Anatomy, specials: Specials, *, options: RenderOptions
    ) -> None:
        self.template, self.specials, self.options = template, specials, options
        self.numbers = {text: number for number, text in enumerate(specials.tokens)}
        # An assistant's own `<think>` is itself, as transformers has it, also where it is a special token.
        self.of_assistant = specials.without(anatomy.markup).pattern
        self.locator = Locator(anatomy, self.of_assistant, num_marks=MARKS)
        self.unused: tuple[str, ...] = ()

    def render(self, conversation: Conversation) -> list[list[Span]] | str:
        """Return the spans of each row, or the reason why the template does not fit."""
        self.unused = ()
        try:
            return [self._row(messages, conversation) for messages in rows_of(conversation, self.options)]
        except UserError as error:
            return str(error)

    def _row(self, messages: tuple[Message, ...], conversation: Conversation) -> list[Span]:
        """Return the spans of one row.

        Raises:
            UserError: the template refuses the messages, or an answer cannot be located.
        """
        given: Messages = [{"role": one.role, "content": one.content, **one.fields} for one in messages]
        tools = None if conversation.tools is None else list(conversation.tools)
        base = _free([given, tools, dict(conversation.template_kwargs)], len(self.numbers) + MARKS)
        shown = {base + number: text for text, number in self.numbers.items()}
        first_mark = chr(base + len(self.numbers))

        def hide(value: Any, pattern: re.Pattern[str]) -> Any:
            return _mapped(value, lambda text: pattern.sub(lambda match: chr(base + self.numbers[match[0]]), text))

        pattern = self.specials.pattern
        given = [hide(one, self.of_assistant if one["role"] == "assistant" else pattern) for one in given]
        tools, variables = hide(tools, pattern), hide(dict(conversation.template_kwargs), pattern)

        def render(some: Messages) -> str:
            return self.template.render(some, tools=tools, variables=variables)[0]

        try:
            text, blocks = self.template.render(given, tools=tools, variables=variables)
        except UserError:
            spoken = [{**one, "content": "" if one["content"] is None else one["content"]} for one in given]
            if spoken == given:
                raise
            # Null beside calls: transformers leaves the key out, and many templates then fail that take an empty text.
            given = spoken
            text, blocks = self.template.render(given, tools=tools, variables=variables)
        self.unused += tuple(f"messages[role={role}]" for role in _left_out(text, given, render, first_mark))
        answers = [number for number, one in enumerate(messages) if one.role == "assistant"]
        wanted = [number for number in answers if messages[number].train]
        if blocks is None:
            found = self.locator.find(text, given, wanted=set(wanted), render=render, first_mark=first_mark)
        else:
            generation = list(generated(text, blocks, self.locator.ends))
            if len(generation) == len(answers):
                found = [(number, one) for number, one in zip(answers, generation, strict=True) if number in wanted]
            elif len(wanted) < len(answers) or self.options.min_answer_words is not None:
                raise UserError(
                    f"the chat template writes {len(generation)} generation blocks for {len(answers)} answers, so it is "
                    f"not known which of them are trained"
                )
            else:
                found = [(wanted[0], one) for one in generation] if wanted else []
        return self._spans(text, [(one, messages[number]) for number, one in found], shown)

    def _spans(self, text: str, found: list[tuple[Found, Message]], shown: dict[int, str]) -> list[Span]:
        builder = SpanBuilder()

        def put(start: int, stop: int, role: int) -> None:
            for part in self.specials.split(text[start:stop]):
                if isinstance(part, str):
                    builder.text(_shown(part, shown), role)
                else:
                    builder.special(part, role)

        done = 0
        for answer, message in found:
            put(done, answer.start, PROMPT)
            put(answer.start, answer.stop, self.options.answer_role(message))
            put(answer.stop, answer.end, END)
            done = answer.end
        put(done, len(text), PROMPT)
        return builder.finish()


def _shown(text: str, shown: dict[int, str]) -> str:
    """Return a text with the hidden special tokens put back, also where a template wrote data as Python does."""
    if PRIVATE.search(text):
        text = text.translate(shown)
    return ESCAPED.sub(lambda match: shown.get(int(match[1], 16), match[0]), text) if "\\U00" in text else text


def _left_out(text: str, given: Messages, render: Callable[[Messages], str], mark: str) -> list[str]:
    """Return the roles of messages that the template does not write, such as Qwen3's of a developer; not the assistant's.

    Args:
        mark: a character that no text has.
    """
    found = []
    for number, one in enumerate(given):
        role, content = one["role"], one["content"]
        if role == "assistant" or role in found or not content:
            continue
        # Most templates write a text as it is. A short one may be in the text by chance.
        if isinstance(content, str) and content.strip() in text and (len(content) > SHORT or role in ("user", "tool")):
            continue
        try:
            shown = render([*given[:number], {**one, "content": mark}, *given[number + 1 :]])
        except UserError:
            continue
        if mark not in shown:
            found.append(role)
    return found


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return the same data with each text changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value


def _free(data: Any, size: int) -> int:
    """Return the start of a block of private-use characters that no text uses.

    Raises:
        UserError: there is none.
    """
    used: set[str] = set()

    def look(text: str) -> str:
        if not text.isascii():
            used.update(PRIVATE.findall(text))
        return text

    _mapped(data, look)
    for plane in PLANES:
        for base in range(plane, plane + PLANE - size, size):
            if not any(base <= ord(char) < base + size for char in used):
                return base
    raise UserError("the texts leave no private-use characters free, with which special tokens are hidden")
