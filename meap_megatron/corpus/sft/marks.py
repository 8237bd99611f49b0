"""Marks in the assistant's texts, which show where a chat template writes them.

The conversation is rendered once more with private-use characters, the marks, put into the assistant's texts: at both
ends, and on both sides of what the template may cut at (`</think>`). Without the marks the second rendering must equal
the first, so each mark that is left tells where its character of the answer is, whatever the template stripped,
dropped or moved. A template that looks at the ends of a text gives another rendering; the marks are then tried further
inside.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from meap_megatron.corpus.sft.chat_template import Messages
from meap_megatron.errors import UserError

Render = Callable[[Messages], str]
NAMES = frozenset(("role", "name", "id", "type", "tool_call_id"))
"""Keys of a message whose text a template compares and does not write as the assistant's words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """A mark in a text of a message."""

    message: int
    kind: str  # "content", "thought", "call"
    text: str
    offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Where marks are put: behind which characters at the ends of a text, and whether names of functions get one.

    None is any space, as for `str.strip`.
    """

    left: str | None
    right: str | None
    calls: bool = True


# A mark keeps the space behind it from being stripped, so the outermost come first.
PLACEMENTS = (
    *(Placement(left, right) for left, right in itertools.product(("", "\n", None), repeat=2)),
    Placement(None, None, calls=False),
)


class Marks:
    """The marks of one rendered conversation.

    Args:
        put: all of them.
        positions: number in `put` -> where the mark is in the text, for those that the template writes.

    Attributes:
        left: number of a message -> its marks that are left, each with its position, in the order of the text.

    Raises:
        UserError: answers are in another order than in the conversation.
    """

    def __init__(self, put: list[Mark], positions: dict[int, int]) -> None:
        self.put = put
        self.left: dict[int, list[tuple[Mark, int]]] = {}
        for number, position in sorted(positions.items(), key=lambda item: item[1]):
            self.left.setdefault(put[number].message, []).append((put[number], position))
        for before, after in itertools.pairwise(self.left[message] for message in sorted(self.left)):
            if before[-1][1] > after[0][1]:
                raise unlocated("the chat template changes the order of the answers, so they cannot be located")

    def lost(self, message: int) -> bool:
        """Tell whether a message that says something had marks, and none is left."""
        had = any(mark.message == message and mark.text.strip() for mark in self.put)
        return had and message not in self.left

    def lost_calls(self, message: int) -> bool:
        """Tell whether the calls of a message had marks, and none is left."""
        had = any(mark.message == message and mark.kind == "call" for mark in self.put)
        return had and not any(mark.kind == "call" for mark, _ in self.left.get(message, ()))


def unlocated(problem: str) -> UserError:
    """Return the error about a chat template in whose text the answers cannot be located."""
    return UserError(problem, fix="use one of the templates of --template")


def rendered_marks(
    text: str, messages: Messages, render: Render, *, tags: re.Pattern[str], first: str, most: int
) -> Marks:
    """Return the marks of a conversation; none where no placement of them gives the same rendering.

    Args:
        messages: what `text` was rendered from.
        render: messages to text; raises UserError.
        tags: matches what the template may cut at.
        first: the first of the characters that are free for marks.
        most: how many there are.

    Raises:
        UserError: an answer is written more than once, or answers in another order.
    """
    tried = []
    for placement in PLACEMENTS:
        marked, put = _marked(messages, placement, tags=tags, first=first, most=most)
        if not put or marked in tried:
            continue
        tried.append(marked)
        try:
            rendered = render(marked)
        except UserError:
            continue
        parts = re.split(f"([{first}-{chr(ord(first) + len(put) - 1)}])", rendered)
        if "".join(parts[::2]) != text:
            continue
        positions: dict[int, int] = {}
        position = 0
        for plain, mark in zip(parts[::2], parts[1::2], strict=False):  # the last part has no mark behind it
            position += len(plain)
            number = ord(mark) - ord(first)
            if number in positions:
                raise unlocated(
                    f"the chat template writes the text of messages[{put[number].message}] more than once, so "
                    f"the answer cannot be located"
                )
            positions[number] = position
        return Marks(put, positions)
    return Marks([], {})


def _marked(
    messages: Messages, placement: Placement, *, tags: re.Pattern[str], first: str, most: int
) -> tuple[Messages, list[Mark]]:
    """Return the messages with marks in the assistant's texts."""
    marks: list[Mark] = []

    def put(text: str, number: int, kind: str, offsets: list[int]) -> str:
        if len(marks) + len(offsets) > most:
            return text
        parts = []
        for start, stop in itertools.pairwise((0, *offsets)):
            parts += [text[start:stop], chr(ord(first) + len(marks))]
            marks.append(Mark(number, kind, text, stop))
        return "".join(parts) + text[offsets[-1] if offsets else 0 :]

    marked = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            marked.append(message)
            continue
        changed: dict[str, Any] = {}
        for key, value in message.items():
            if isinstance(value, str) and key not in NAMES:
                kind = "content" if key == "content" else "thought"
                value = put(value, number, kind, _offsets(value, placement, tags))
            elif key == "tool_calls" and isinstance(value, list) and placement.calls:
                value = [_with_name(call, partial(put, number=number, kind="call", offsets=[0])) for call in value]
            changed[key] = value
        marked.append(changed)
    return marked, marks


def _offsets(text: str, placement: Placement, tags: re.Pattern[str]) -> list[int]:
    """Return where marks go in a text."""
    offsets = set()
    cuts = [0, *itertools.chain.from_iterable(match.span() for match in tags.finditer(text)), len(text)]
    for start, stop in zip(cuts[::2], cuts[1::2], strict=True):
        part = text[start:stop]
        left, right = len(part) - len(part.lstrip(placement.left)), len(part.rstrip(placement.right))
        if left <= right and (part.strip() or (len(cuts) == 2 and placement.left is not None)):
            offsets |= {start + left, start + right}
    if placement.left == "":  # also in front of a tag
        offsets.add(0)
    return sorted(offsets)


def _with_name(call: Any, change: Callable[[str], str]) -> Any:
    """Return a tool call with another name of its function."""
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        return {**call, "function": _with_name(call["function"], change)}
    if isinstance(call, dict) and isinstance(call.get("name"), str):
        return {**call, "name": change(call["name"])}
    return call
