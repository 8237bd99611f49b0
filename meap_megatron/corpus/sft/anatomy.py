"""What a chat template writes around messages, read off one rendered conversation of four one-character messages."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable

from meap_megatron.corpus.sft.chat_template import Messages
from meap_megatron.corpus.sft.clock import literals
from meap_megatron.corpus.sft.spans import Specials, SpecialToken
from meap_megatron.errors import UserError

# Private-use characters: no template writes them, strips them or tests for them.
FIRST, SECOND, THIRD, FOURTH = PROBES = tuple(chr(0xF0000 + number) for number in range(4))
TAG = re.compile(r"<[^<>\s'\"]+>|\[/?[A-Z_]+\]|◁[^◁▷\s]+▷")
WORDS = re.compile(r"think|thought|reason|answer|solution|tool_call|function_call", re.IGNORECASE)
"""Of a pair of special tokens: it marks a part of an answer, not a message."""
NO_THOUGHT = re.compile(
    r"\s*(?:(?:<[^<>/|｜\s]+>|\[[A-Z_]+\]|◁[^◁▷/\s]+▷)\s*)?(?:</[^<>\s]+>|\[/[A-Z_]+\]|◁/[^◁▷\s]+▷)\s*"
)
"""A thought that the template opens and closes itself (or only closes), and the space around it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a chat template writes around messages.

    Attributes:
        marks: added tokens that the tokenizer calls ordinary but that the template writes between messages.
        openings: what opens an answer, the longest first; the later ones lack what belongs to the message before it.
        header: the special token that opens a user's message, or None.
        inside: special tokens within what opens a message.
        end: the special token that closes an answer, or None.
        known: the template took the conversation from which this is read.
        markup: special tokens like `<think>` and `</think>` that may occur in an assistant's words.
        tags: what looks like a tag in the template's source: there it may cut an answer.
    """

    marks: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()
    header: str | None = None
    inside: frozenset[str] = frozenset()
    end: str | None = None
    known: bool = False
    markup: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def examine(
    source: str,
    render: Callable[[Messages, bool], str],
    *,
    specials: Iterable[str],
    ordinary: Iterable[str],
    named: Iterable[str],
) -> Anatomy:
    """Look at a chat template.

    Args:
        source: the template.
        render: messages, and whether to end with what opens an answer, to text; raises UserError.
        specials: the tokenizer's special tokens.
        ordinary: its other added tokens.
        named: special tokens with a purpose of their own: BOS, EOS, padding, unknown, mask.
    """
    tags = tuple(sorted({tag for literal in literals(source) for tag in TAG.findall(literal)}))
    names = set(specials)
    markup = tuple(sorted(token for token in _pairs(names) - set(named) if WORDS.search(token)))
    turns = [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(PROBES)]
    try:
        text = render(turns, False)
    except UserError:
        return Anatomy(markup=markup, tags=tags)
    if [char for char in text if char in PROBES] != list(PROBES):
        return Anatomy(markup=markup, tags=tags)
    before, to_answer, to_user, _, tail = re.split(f"[{''.join(PROBES)}]", text)
    between = to_answer + to_user + tail
    marks = {token for token in ordinary if token.strip() and token in between} - _pairs(set(ordinary))
    # A mark that is the start of a longer one is not a mark of its own.
    marks = {mark for mark in marks if any(mark in _tokens(part, marks) for part in (to_answer, to_user, tail))}
    names |= marks
    closing = _tokens(tail, names)[:1]
    headers = [token for token in _tokens(_common_end(before, to_user), names) if token not in closing]
    ends = [token for token in _tokens(to_user, names)[:1] if token not in headers[:1]] or closing
    return Anatomy(
        marks=tuple(sorted(marks)),
        openings=_openings(to_answer, _prompt(render), names),
        header=headers[0] if headers else None,
        inside=frozenset(headers[1:]),
        end=ends[0] if ends else None,
        known=True,
        markup=markup,
        tags=tags,
    )


def _prompt(render: Callable[[Messages, bool], str]) -> str | None:
    """Return what a template writes behind a question when it is to open the answer; None if it does not."""
    question: Messages = [{"role": "user", "content": FIRST}]
    try:
        plain, opened = render(question, False), render(question, True)
    except UserError:
        return None
    return None if plain == opened or opened.count(FIRST) != 1 else opened.partition(FIRST)[2]


def _openings(to_answer: str, prompt: str | None, names: set[str]) -> tuple[str, ...]:
    """Return what opens an answer: as much as the generation prompt has of it, then without what comes before."""
    whole = to_answer
    if prompt is not None:
        common = os.path.commonprefix([to_answer, prompt])
        if common in (to_answer, prompt):
            whole = common
        else:  # they part within a word: go back to the last special token
            stops = [match.end() for match in _pattern(names).finditer(common)]
            whole = common[: stops[-1]] if stops else common
    found = [whole]
    # An empty thought is not part of what opens an answer with a thought.
    found += [whole[: match.start()] for match in NO_THOUGHT.finditer(whole) if match.end() == len(whole)]
    for opening in tuple(found):
        found += [opening[match.start() :] for match in _pattern(names).finditer(opening)]
    return tuple(dict.fromkeys(opening for opening in found if opening.strip()))


def _pairs(tokens: set[str]) -> set[str]:
    """Return the tokens of which there is an opening and a closing one."""
    closing = {token for token in tokens if token[1:2] == "/" and token[0] + token[2:] in tokens}
    return closing | {token[0] + token[2:] for token in closing}


def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    return Specials([SpecialToken(name, 0) for name in names]).pattern


def _tokens(text: str, names: Iterable[str]) -> list[str]:
    return _pattern(names).findall(text)


def _common_end(a: str, b: str) -> str:
    return os.path.commonprefix([a[::-1], b[::-1]])[::-1]
