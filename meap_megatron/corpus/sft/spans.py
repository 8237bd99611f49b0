"""A conversation on its way to ids: texts to encode, ids that are certain, and the role of each character or id.

Text runs from one special token to the next, as Hugging Face's tokenizers cut a text; the runs of all rows of a batch
are encoded together.
"""

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that only a template can give; `lstrip` and `rstrip` as in Hugging Face's `AddedToken`."""

    text: str
    token_id: int
    lstrip: bool = False
    rstrip: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """One id that needs no encoding."""

    token_id: int
    role: int


@dataclasses.dataclass(frozen=True, slots=True)
class TextRun:
    """A text to encode.

    Attributes:
        text: the text, without special tokens.
        first: it is the start of a text of its own, where some tokenizers put a space before it.
        roles: ((stop character, role), ...), ascending; the last stop is the length of the text.
    """

    text: str
    first: bool
    roles: tuple[tuple[int, int], ...]


Span = Known | TextRun


class Specials:
    """The special tokens that a template may write."""

    def __init__(self, tokens: list[SpecialToken]) -> None:
        self.tokens = {token.text: token for token in tokens}
        # The longest first: a token may be the start of another.
        names = sorted(self.tokens, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, names)) if names else r"(?!)")

    def without(self, names: Iterable[str]) -> "Specials":
        """Return the special tokens without some."""
        return Specials([token for text, token in self.tokens.items() if text not in names])

    def split(self, text: str) -> list[str | SpecialToken]:
        """Cut a text at special tokens; empty texts are left out."""
        parts: list[str | SpecialToken] = []
        position = 0
        for match in self.pattern.finditer(text):
            parts += [text[position : match.start()], self.tokens[match[0]]]
            position = match.end()
        return [part for part in (*parts, text[position:]) if part != ""]


class SpanBuilder:
    """Collect the spans of one row in order."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._spans: list[tuple[str, int]] = []
        self._first = True
        self._strip = False  # the token before takes the spaces that follow it

    def text(self, text: str, role: int) -> None:
        """Append text; neighbouring texts are one run, whatever their roles."""
        if self._strip:
            text = text.lstrip()
            self._strip = not text
        if text:
            self._spans.append((text, role))

    def special(self, token: SpecialToken, role: int) -> None:
        """Append the id of a special token."""
        while token.lstrip and self._spans:
            text, before = self._spans.pop()
            if text := text.rstrip():
                self._spans.append((text, before))
                break
        self._flush()
        self.spans.append(Known(token.token_id, role))
        self._first, self._strip = False, token.rstrip

    def known(self, token_id: int, role: int) -> None:
        """Append an id."""
        self.start()
        self.spans.append(Known(token_id, role))

    def start(self) -> None:
        """End the text so far: what follows is encoded as a text of its own."""
        self._flush()
        self._first, self._strip = True, False

    def finish(self) -> list[Span]:
        """Return the spans."""
        self._flush()
        return self.spans

    def _flush(self) -> None:
        if not self._spans:
            return
        roles: list[tuple[int, int]] = []
        stop = 0
        for text, role in self._spans:
            stop += len(text)
            if roles and roles[-1][1] == role:
                roles.pop()
            roles.append((stop, role))
        text = "".join(text for text, _ in self._spans)
        self.spans.append(TextRun(text=text, first=self._first, roles=tuple(roles)))
        self._spans, self._first = [], False


def added_tokens(definition: str) -> tuple[list[str], list[str]]:
    """Return the texts of a tokenizer.json's special tokens, and of its other added tokens."""
    added = json.loads(definition)["added_tokens"]
    return [one["content"] for one in added if one["special"]], [one["content"] for one in added if not one["special"]]


def template_specials(definition: str, marks: Iterable[str] = ()) -> tuple[str, Specials]:
    """Return what a template may write, and the tokenizer for texts, in which these tokens are plain text.

    Added tokens that the tokenizer calls ordinary are themselves in a text, as transformers has it, unless they are
    marks by which a template tells messages apart: no user may end a turn by typing one.

    Args:
        definition: text of the tokenizer.json.
        marks: ordinary added tokens that count as special.

    Returns:
        The changed tokenizer.json, and the special tokens.
    """
    content: dict[str, Any] = json.loads(definition)
    tokens = []
    for added in content["added_tokens"]:
        added["special"] = added["special"] or added["content"] in marks
        if added["special"]:
            tokens.append(SpecialToken(added["content"], added["id"], added["lstrip"], added["rstrip"]))
    return json.dumps(content, ensure_ascii=False), Specials(tokens)


def inner_definition(definition: str) -> str:
    """Return the tokenizer for a run that follows a special token: no space is put before it.

    SentencePiece-like tokenizers with the scheme "first" put a space before a text, but only before its start.
    """
    content: dict[str, Any] = json.loads(definition)
    changed = False
    steps = [content["pre_tokenizer"]] if content.get("pre_tokenizer") else []
    for step in steps:
        steps += step.get("pretokenizers", [])
        if step["type"] == "Metaspace" and step.get("prepend_scheme") == "first":
            step["prepend_scheme"] = "never"
            changed = True
    return json.dumps(content, ensure_ascii=False) if changed else definition
