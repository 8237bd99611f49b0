"""Find the answers in a rendered conversation.

`marks` tells where the template writes the texts of the assistant; what is around them is found here.

An answer begins behind what opens it, and is followed by the special token that closes it:

    <|im_start|>assistant\\n  <think>\\n a thought \\n</think>\\n\\n the answer  <|im_end|>  \\n
    prompt                    answer                                          end         prompt
"""

import dataclasses
import json
import re
from collections.abc import Iterator

from meap_megatron.corpus.sft.anatomy import NO_THOUGHT, Anatomy
from meap_megatron.corpus.sft.chat_template import Messages
from meap_megatron.corpus.sft.marks import Mark, Render, rendered_marks, unlocated
from meap_megatron.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Where an answer is in the text: its words from `start` to `stop`, what closes it from there to `end`."""

    start: int
    stop: int
    end: int


class Locator:
    """Find answers in what one chat template writes.

    Args:
        ends: matches the special tokens that may follow an answer.
        num_marks: how many marks may be put into one conversation.
    """

    def __init__(self, anatomy: Anatomy, ends: re.Pattern[str], *, num_marks: int) -> None:
        self.anatomy, self.ends, self.num_marks = anatomy, ends, num_marks
        self.tags = re.compile("|".join(map(re.escape, anatomy.tags)) if anatomy.tags else r"(?!)")

    def find(
        self, text: str, messages: Messages, *, wanted: set[int], render: Render, first_mark: str
    ) -> list[tuple[int, Found]]:
        """Return each wanted answer as (number of the message, where it is); one that the template leaves out has no entry.

        Args:
            messages: what `text` was rendered from.
            wanted: numbers of the messages that are looked for.
            render: messages to text; raises UserError.
            first_mark: the first of the characters that are free for marks.

        Raises:
            UserError: an answer cannot be located.
        """
        marks = rendered_marks(text, messages, render, tags=self.tags, first=first_mark, most=self.num_marks)
        found = []
        done = 0
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            later = [marks.left[other][0][1] for other in range(number + 1, len(messages)) if other in marks.left]
            bound = later[0] if later else len(text)
            if message.get("tool_calls") and marks.lost_calls(number):
                continue  # the template has no place for calls: what is left of the answer is not what it said
            if marks.lost(number):
                continue  # the template does not write it
            left = marks.left.get(number)
            try:
                if left:
                    answer = self._by_marks(text, messages, number, left, done, bound, render)
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

    def _by_marks(
        self,
        text: str,
        messages: Messages,
        number: int,
        left: list[tuple[Mark, int]],
        done: int,
        bound: int,
        render: Render,
    ) -> Found:
        (first, start), (last, stop) = left[0], left[-1]
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
            raise unlocated(
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
        raise unlocated(
            f"the chat template looks at the text of messages[{number}] in a way that hides where it is written"
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
        raise unlocated(f"the chat template writes nothing that tells where messages[{number}] begins")

    def _end(self, text: str, stop: int, bound: int, *, tight: bool) -> tuple[int, int] | None:
        """Return the span of what closes an answer, or None.

        Args:
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
