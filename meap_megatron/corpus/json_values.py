"""JSON that is not one value a line: arrays, and objects written over several lines. Streamed: memory is a few values."""

import json
import re
from collections.abc import Iterator
from typing import IO

from meap_megatron.corpus.streams import BYTE_ORDER_MARK
from meap_megatron.errors import UserError

SPACE = re.compile(r"[ \t\n\r]*")
WINDOW = 2**20  # bytes that are parsed at once
LONGEST = 2**26  # bytes of a first value that are looked at to tell the layout
# A parser that met the end of the window in the middle of a value stops at most so far before it.
NEAR = 16
DECODER = json.JSONDecoder()


def json_layout(start: bytes, stream: IO[bytes]) -> str:
    """Return how the values of a stream are laid out.

    Args:
        start: the first bytes of it, a few kilobytes where it has so many.
        stream: the bytes that follow.

    Returns:
        "jsonl": a value a line. "array": elements of one array. "objects": one after the other, over any lines. What
        is none of these is "jsonl", where every line that is not JSON is named.
    """
    start = start.removeprefix(BYTE_ORDER_MARK).lstrip(b" \t\r\n")
    line, _, behind = start.partition(b"\n")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        pass  # not whole: it continues on the next line, is longer than what was read, or is wrong
    else:
        return "array" if isinstance(value, list) and not behind.strip() else "jsonl"
    layout = {b"[": "array", b"{": "objects"}.get(start[:1])
    if layout is None:
        return "jsonl"
    while True:
        text = start.decode("latin-1")
        position = _skip(text, 1) if layout == "array" else 0
        if layout == "array" and text[position : position + 1] == "]":
            return layout
        try:
            DECODER.raw_decode(text, position)
            return layout
        except RecursionError:
            return "jsonl"
        except json.JSONDecodeError as error:
            if not _cut_off(error, text) or len(start) > LONGEST:
                return "jsonl"
        more = stream.read(len(start))
        if not more:
            return "jsonl"
        start += more


def json_values(stream: IO[bytes], *, brackets: bool, place: str) -> Iterator[tuple[int, int, bytes]]:
    """Give the values of an array, or of objects one after the other.

    Args:
        stream: UTF-8 bytes. Without brackets, values with or without commas between them.
        brackets: the stream is one array.
        place: the file, for messages.

    Yields:
        The line in which the value begins, counted from 1; its offset in the stream; its bytes.

    Raises:
        UserError: the JSON is invalid; the message names the line.
    """
    window = _Window(stream, place, "JSON array" if brackets else "JSON")
    if window.text.startswith(BYTE_ORDER_MARK.decode("latin-1")):
        window.position = len(BYTE_ORDER_MARK)
    if brackets:
        window.next_character()
        window.position += 1
    separated = True  # a value may follow
    while character := window.next_character():
        if character == "]" and brackets:
            window.position += 1
            if window.next_character():
                raise window.damaged("text after the closing bracket")
            return
        if character == "," and not separated:
            window.position += 1
            separated = True
        elif brackets and not separated:
            raise window.damaged("expected ',' or ']' after an element")
        else:
            yield window.value()
            separated = False
    if brackets:
        raise window.damaged("expected ',' or ']' after an element")


class _Window:
    """The part of a stream that is being parsed, one character per byte: the structure of JSON is ASCII."""

    def __init__(self, stream: IO[bytes], place: str, what: str) -> None:
        self.stream, self.place, self.what = stream, place, what
        self.text, self.position = "", 0
        self.ended = False
        self.offset, self.line = 0, 1  # of the first character
        self.counted = 0  # characters whose newlines are counted in `line`
        self.more()

    def more(self) -> None:
        """Drop what was parsed and read on, twice as much as is left: a long value is parsed a few times only."""
        self.count_lines()
        left = self.text[self.position :]
        chunk = self.stream.read(max(WINDOW, len(left)))
        self.ended = not chunk
        self.offset += self.position
        self.text, self.position, self.counted = left + chunk.decode("latin-1"), 0, 0

    def count_lines(self) -> int:
        """Return the line of the position."""
        self.line += self.text.count("\n", self.counted, self.position)
        self.counted = self.position
        return self.line

    def next_character(self) -> str:
        """Move to the next character that is not a space; return it, "" at the end."""
        while True:
            self.position = _skip(self.text, self.position)
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.more()

    def value(self) -> tuple[int, int, bytes]:
        """Return the line, offset and bytes of the value at the position, and move behind it."""
        while True:
            try:
                stop = DECODER.raw_decode(self.text, self.position)[1]
            except RecursionError as error:
                raise self.damaged(str(error)) from None
            except json.JSONDecodeError as error:
                if self.ended or not _cut_off(error, self.text):
                    self.position = error.pos
                    raise self.damaged(error.msg) from None
            else:
                # A number near the end of the window may continue: "-6." and "-6.75e" are read as -6 and -6.75.
                if self.text[stop - 1] in '}]"' or stop <= len(self.text) - NEAR or self.ended:
                    line, offset = self.count_lines(), self.offset + self.position
                    raw = self.text[self.position : stop].encode("latin-1")
                    self.position = stop
                    return line, offset, raw
            self.more()

    def damaged(self, reason: str) -> UserError:
        return UserError(f"{self.place}:{self.count_lines()}: invalid {self.what}: {reason}")


def _skip(text: str, position: int) -> int:
    match = SPACE.match(text, position)
    return match.end() if match else position


def _cut_off(error: json.JSONDecodeError, text: str) -> bool:
    """Tell whether the text may just have ended too early."""
    return error.pos >= len(text) - NEAR or error.msg.startswith("Unterminated string")
