"""Find the answers in a rendered conversation.

The conversation is rendered once more with private-use characters, the marks, put into the assistant's texts: at both
ends, and on both sides of what the template may cut at (`</think>`). Without the marks the second rendering must equal
the first, so each mark that is left tells where its character of the answer is, whatever the template stripped,
dropped or moved. A template that looks at the ends of a text gives another rendering; the marks are then tried further
inside.

An answer begins behind what opens it, and is followed by the special token that closes it:

    <|im_start|>assistant\\n  <think>\\n a thought \\n</think>\\n\\n the answer  <|im_end|>  \\n
    prompt                    answer                                          end         prompt
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from meap_megatron.corpus.sft.anatomy import NO_THOUGHT, Anatomy
from meap_megatron.corpus.sft.chat_template import Messages
from meap_megatron.errors import UserError

Render = Callable[[Messages], str]
NAMES = frozenset(("role", "name", "id", "type", "tool_call_id"))
"""Keys of a message whose text a template compares and does not write as the assistant's words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Where an answer is in the text: its words from `start` to `stop`, what closes it from there to `end`."""

    start: int
    stop: int
    end: int


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


class Locator:
    """Find answers in what one chat template writes.

    Args:
        anatomy: what the template writes around messages.
        ends: matches the special tokens that may follow an answer.
        first_mark: the first of the characters that no text has.
        num_marks: how many there are.
    """

    def __init__(self, anatomy: Anatomy, ends: re.Pattern[str], *, num_marks: int) -> None:
        self.anatomy, self.ends, self.num_marks = anatomy, ends, num_marks
        self.tags = re.compile("|".join(map(re.escape, anatomy.tags)) if anatomy.tags else r"(?!)")

    def find(
        self, text: str, messages: Messages, *, wanted: set[int], render: Render, first_mark: str
    ) -> list[tuple[int, Found]]:
        """Return each wanted answer as (number of the message, where it is); one that the template leaves out has no entry.

        Args:
            text: the rendered conversation.
            messages: what it was rendered from.
            wanted: numbers of the messages that are looked for.
            render: messages to text; raises UserError.
            first_mark: the first of the characters that are free for marks.

        Raises:
            UserError: an answer cannot be located.
        """
        marks, positions = self._rendered_marks(text, messages, render, first_mark)
        spans = self._extents(messages, marks, positions)
        found = []
        done = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            later = [spans[other][0][1] for other in range(number + 1, len(messages)) if other in spans]
            bound = later[0] if later else len(text)
            if message.get("tool_calls") and _left_out("call", number, marks, positions):
                continue  # the template has no place for calls: what is left of the answer is not what it said
            left = spans.get(number)
            if left is None and any(mark.message == number and mark.text.strip() for mark in marks):
                continue  # its words had marks, and none is left: the template does not write it
            try:
                if left:
                    answer = self._by_marks(text, messages, number, left, done, bound, marks, render)
                else:
                    answer = self._by_opening(text, messages, number, done, bound)
            except UserError:
                if number in wanted:
                    raise
                continue
            done = answer.end
            if number in wanted:
                found.append((number, answer))
        return found

    def _rendered_marks(
        self, text: str, messages: Messages, render: Render, first_mark: str
    ) -> tuple[list[Mark], dict[int, int]]:
        """Return the marks, and where those that are left are in the text."""
        tried = []
        for placement in PLACEMENTS:
            marked, marks = self._marked(messages, placement, first_mark)
            if not marks or marked in tried:
                continue
            tried.append(marked)
            try:
                rendered = render(marked)
            except UserError:
                continue
            positions: dict[int, int] = {}
            parts = re.split(f"([{first_mark}-{chr(ord(first_mark) + len(marks) - 1)}])", rendered)
            if "".join(parts[::2]) != text:
                continue
            position = 0
            for plain, mark in itertools.zip_longest(parts[::2], parts[1::2]):
                position += len(plain)
                if mark is None:
                    break
                number = ord(mark) - ord(first_mark)
                if number in positions:
                    raise UserError(
                        f"the chat template writes the text of messages[{marks[number].message}] more than once, so "
                        f"the answer cannot be located"
                    )
                positions[number] = position
            return marks, positions
        return [], {}

    def _marked(self, messages: Messages, placement: Placement, first_mark: str) -> tuple[Messages, list[Mark]]:
        """Return the messages with marks in the assistant's texts."""
        marks: list[Mark] = []

        def put(text: str, number: int, kind: str, offsets: list[int]) -> str:
            if len(marks) + len(offsets) > self.num_marks:
                return text
            pieces = []
            for start, stop in itertools.pairwise((0, *offsets, len(text))):
                pieces += [text[start:stop], chr(ord(first_mark) + len(marks))]
                marks.append(Mark(number, kind, text, stop))
            marks.pop()
            return "".join(pieces[:-1])

        marked = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                marked.append(message)
                continue
            changed: dict[str, Any] = {}
            for key, value in message.items():
                if isinstance(value, str) and key not in NAMES:
                    kind = "content" if key == "content" else "thought"
                    value = put(value, number, kind, self._offsets(value, placement))
                elif key == "tool_calls" and isinstance(value, list) and placement.calls:
                    value = [_with_name(call, partial(put, number=number, kind="call", offsets=[0])) for call in value]
                changed[key] = value
            marked.append(changed)
        return marked, marks

    def _offsets(self, text: str, placement: Placement) -> list[int]:
        """Return where marks go in a text."""
        offsets = set()
        cuts = [0, *itertools.chain.from_iterable(match.span() for match in self.tags.finditer(text)), len(text)]
        for start, stop in zip(cuts[::2], cuts[1::2], strict=True):
            piece = text[start:stop]
            left, right = len(piece) - len(piece.lstrip(placement.left)), len(piece.rstrip(placement.right))
            if left <= right and (piece.strip() or (len(cuts) == 2 and placement.left is not None)):
                offsets |= {start + left, start + right}
        if placement.left == "":  # also in front of a tag
            offsets.add(0)
        return sorted(offsets)

    def _extents(
        self, messages: Messages, marks: list[Mark], positions: dict[int, int]
    ) -> dict[int, list[tuple[int, int]]]:
        """Return the marks that are left of each message as (number, position), in the order of the text."""
        spans: dict[int, list[tuple[int, int]]] = {}
        for number, position in sorted(positions.items(), key=lambda item: item[1]):
            spans.setdefault(marks[number].message, []).append((number, position))
        edges = [spans[number] for number in sorted(spans)]
        for before, after in itertools.pairwise(edges):
            if before[-1][1] > after[0][1]:
                raise UserError("the chat template changes the order of the answers, so they cannot be located")
        return spans

    def _by_marks(
        self,
        text: str,
        messages: Messages,
        number: int,
        span: list[tuple[int, int]],
        done: int,
        bound: int,
        marks: list[Mark],
        render: Render,
    ) -> Found:
        first, start = marks[span[0][0]], span[0][1]
        last, stop = marks[span[-1][0]], span[-1][1]
        is_start = first.kind == "content" and first.offset <= len(first.text) - len(first.text.lstrip())
        opened = self._opened(text, done, start)
        if opened is None and not is_start:
            opened = self._opened_by_prompt(text, messages, number, done, start, render)
        if opened is not None:
            start = _without_closed_thought(text, opened, start)
        end = None
        if last.kind == "content":
            rest = last.text[last.offset :].rstrip()
            written = text.startswith(rest, stop)
            stop += len(rest) if written else 0
            end = self._end(text, stop, bound, tight=True)
            if end is None and written and not messages[number].get("tool_calls"):
                return Found(start, stop, stop)
        end = end or self._end(text, stop, bound, tight=False)
        if end is None or self._holds_next(text[stop : end[0]], messages, number):
            raise UserError(
                f"the chat template writes no special token behind messages[{number}], so its end is unknown"
            )
        return Found(start, *end)

    def _by_opening(self, text: str, messages: Messages, number: int, done: int, bound: int) -> Found:
        """Locate an answer without marks: an empty one, or one that the template renders otherwise with marks in it."""
        for opening in self.anatomy.openings:
            needle = opening.strip()
            at = text.find(needle, done, bound)
            if at < 0 or not self.ends.search(needle):
                continue
            opened = _past_space(text, at + len(needle), opening)
            end = self._end(text, opened, len(text), tight=False)
            if end is None or self._holds_next(text[opened : end[0]], messages, number):
                break
            start = _without_closed_thought(text, opened, end[0])
            content = (messages[number].get("content") or "").strip()
            if isinstance(content, str) and not _same(text[start : end[0]], content):
                break
            return Found(start, *end)
        raise UserError(
            f"the chat template looks at the text of messages[{number}] in a way that hides where it is written; use one "
            f"of the templates of --template"
        )

    def _opened(self, text: str, done: int, start: int) -> int | None:
        """Return where the answer begins behind what opens it, or None if that is not before it."""
        found = []
        for opening in self.anatomy.openings:
            needle = opening.strip()
            if (at := text.rfind(needle, done, start)) >= 0:
                found.append(min(start, _past_space(text, at + len(needle), opening)))
        return max(found, default=None)

    def _opened_by_prompt(
        self, text: str, messages: Messages, number: int, done: int, start: int, render: Render
    ) -> int:
        """Return the same for a template without an opening of its own (Mistral's call behind a result)."""
        try:
            prompt = render(messages[:number]) if number else ""
        except UserError:
            prompt = ""
        stops = [match.start() for match in self.ends.finditer(prompt)]
        needle = prompt[stops[-1] :].rstrip() if stops else ""
        if needle and (at := text.rfind(needle, done, start)) >= 0:
            return at + len(needle)
        raise UserError(f"the chat template writes nothing that tells where messages[{number}] begins")

    def _end(self, text: str, stop: int, bound: int, *, tight: bool) -> tuple[int, int] | None:
        """Return the span of what closes an answer, or None.

        Args:
            text: the rendered conversation.
            stop: the end of the answer's words.
            bound: where the next answer is.
            tight: only space may be between; else also the rest of a function call or of a thought.
        """
        found: tuple[int, int] | None = None
        position = stop
        if tight and self.anatomy.known and self.anatomy.end is None:
            return None
        for match in self.ends.finditer(text, stop, max(bound, stop)):
            if self.anatomy.known and self.anatomy.end is None:
                return match.start(), match.start()
            between = text[position : match.start()].strip("` \n\t\r")
            if match[0] == self.anatomy.header or ((found or tight) and between):
                break
            if match[0] in self.anatomy.inside and not tight:
                continue
            if match[0] == self.anatomy.end or found is None:
                found = match.span()
            if match[0] == self.anatomy.end:
                break
            position = match.end()
        if found is None:
            return None
        return (stop if tight else found[0]), found[1]

    def _holds_next(self, text: str, messages: Messages, number: int) -> bool:
        """Whether a text reaches into the next message."""
        follower = messages[number + 1].get("content") if number + 1 < len(messages) else None
        if not isinstance(follower, str) or not follower.strip():
            return False
        # A short result of a call may be in the call too.
        calls = messages[number].get("tool_calls") or ()
        own = json.dumps([call.get("function", call) for call in calls if isinstance(call, dict)], ensure_ascii=False)
        return text.count(follower.strip()) > own.count(follower.strip())


def generated(text: str, blocks: list[tuple[int, int]], ends: re.Pattern[str]) -> Iterator[Found]:
    """Give the answers that the template's own `{% generation %}` blocks are, with what closes each."""
    for start, stop in blocks:
        closing = [match.start() for match in ends.finditer(text, start, stop)]
        closed = closing and not ends.sub("", text[closing[-1] : stop]).strip()
        yield Found(start, closing[-1] if closed else stop, stop)


def _left_out(kind: str, number: int, marks: list[Mark], positions: dict[int, int]) -> bool:
    """Whether a message has marks of a kind, of which none is left."""
    of_kind = [index for index, mark in enumerate(marks) if mark.message == number and mark.kind == kind]
    return bool(of_kind) and not any(index in positions for index in of_kind)


def _with_name(call: Any, change: Callable[[str], str]) -> Any:
    """Return a tool call with another name of its function."""
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        return {**call, "function": _with_name(call["function"], change)}
    if isinstance(call, dict) and isinstance(call.get("name"), str):
        return {**call, "name": change(call["name"])}
    return call


def _past_space(text: str, position: int, opening: str) -> int:
    """Return the position behind as much of the space that ends an opening as the text has."""
    for char in opening[len(opening.rstrip()) :]:
        if not text.startswith(char, position):
            break
        position += 1
    return position


def _without_closed_thought(text: str, opened: int, start: int) -> int:
    """Return where the trained words begin: what the template writes in front, without a thought that it closes itself."""
    lead = text[opened:start]
    closed = NO_THOUGHT.match(lead)
    behind = closed.end() if closed else 0
    return opened + behind if lead[behind:].strip() else start


def _same(written: str, content: str) -> bool:
    return not content or written.strip().endswith(content) or written.strip().startswith(content)
