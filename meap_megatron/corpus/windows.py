"""Long texts through `tokenizers` piece by piece, where the ids of the pieces are provably those of the whole.

The library takes about 110 bytes of memory for a byte of text, so that a line of 64 MB needs 7 GB. A text is cut at a
border of the tokenizer's own, far enough from the end of a window that nothing behind it can have decided:

- where the first scanning pattern of the pre-tokenizer begins a match. From such a place on, a pattern without a look behind
  finds what it found in the whole; what follows the pattern looks at one of its matches at a time, and so does the model;
- at a space between two words where each word is encoded for itself: the pre-tokenizer cuts there, or no piece of the
  vocabulary continues past the mark of a space (SentencePiece-like BPE).
"""

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

WINDOW = 2**18  # characters encoded at once
MARGIN = 2**12  # at its end, where what follows may decide
MARK = "\u2581"  # of a space, in SentencePiece's vocabularies
LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")  # exact on both sides of an ASCII character
WORD_NORMALIZERS = (*LOCAL_NORMALIZERS, "Nmt", "Precompiled", "StripAccents")  # and at a space between two of them
LOOKS_BEHIND = re.compile(r"\(\?<|\\[bBAGzZ]|(?<!\[)\^|\$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windowed:
    """A tokenizer whose offsets tell where a text may be cut.

    Attributes:
        tokenizer: encodes a window.
        at_spaces: cut at spaces between words; else where the first scanning pattern begins a match.
        borders: encodes one token for each match of that pattern; None: the words of `tokenizer` are these.
        opens_with_mark: every text gets the mark of a space in front, so that a window begins behind its space.
    """

    tokenizer: "Tokenizer"
    at_spaces: bool
    borders: "Tokenizer | None"
    opens_with_mark: bool


def windowed(definition: str) -> Windowed | None:
    """Return how a text may be cut, or None where no cut is known to be exact.

    Args:
        definition: text of the tokenizer.json.
    """
    content = json.loads(definition)
    if _added_tokens_look_around(content):
        return None
    content["post_processor"] = None
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    first = first_scan(content)
    if first is None and not cuts_at_spaces(content):
        return None
    for step in steps:
        if step["type"] == "ByteLevel":
            step["trim_offsets"] = False  # else a token does not own the space before it
    tokenizer = _load(content)
    if first is None:
        prepends = "Prepend" in _normalizers(content)
        return Windowed(tokenizer=tokenizer, at_spaces=True, borders=None, opens_with_mark=prepends)
    if all(step["type"] == "ByteLevel" and not step.get("use_regex", True) for step in steps[first + 1 :]):
        return Windowed(tokenizer=tokenizer, at_spaces=False, borders=None, opens_with_mark=False)
    alone = {"type": "Sequence", "pretokenizers": steps[: first + 1]}
    model = {"type": "WordLevel", "vocab": {MARK: 0}, "unk_token": MARK}
    added = [{**token, "id": number} for number, token in enumerate(content["added_tokens"], start=1)]
    borders = _load({**content, "pre_tokenizer": alone, "model": model, "added_tokens": added})
    return Windowed(tokenizer=tokenizer, at_spaces=False, borders=borders, opens_with_mark=False)


def first_scan(content: dict[str, Any]) -> int | None:
    """Return which step of the pre-tokenizer is the first that scans with a pattern, None if its matches are not borders.

    `Digits` before it tells characters apart one by one.
    """
    if not set(_normalizers(content)) <= set(LOCAL_NORMALIZERS):
        return None
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    if any(step["type"] in ("Metaspace", "Sequence") for step in steps):
        return None
    for number, step in enumerate(steps):
        if step["type"] == "ByteLevel":
            return number if step.get("use_regex", True) and not step.get("add_prefix_space") else None
        if step["type"] == "Split":
            pattern = step["pattern"].get("Regex")
            is_scan = step["behavior"] == "Isolated" and not step.get("invert")
            return number if is_scan and pattern is not None and not LOOKS_BEHIND.search(pattern) else None
        if step["type"] != "Digits":
            return None
    return None


def cuts_at_spaces(content: dict[str, Any]) -> bool:
    """Tell whether each word of a text is encoded for itself, with the space before it."""
    prepends = False
    for step in _steps(content.get("normalizer"), "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == MARK:
            prepends = True
        elif step["type"] == "Replace":
            if step["pattern"] not in ({"String": " "}, {"Regex": " {2,}"}) or step["content"] not in (" ", MARK):
                return False
        elif step["type"] not in WORD_NORMALIZERS:
            return False
    if prepends and not all(token["special"] for token in content["added_tokens"]):
        return False  # what follows an added token gets a mark of its own
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    if steps and steps[0]["type"] == "WhitespaceSplit" and not prepends:
        steps = steps[1:]
        if steps and steps[0].get("prepend_scheme") == "first":
            return False
    if [step.get("pattern") for step in steps] == [{"String": " "}] and _marks_spaces(content):
        steps = []  # Gemma's: no space is left where it looks for one
    splits = [
        step.get("split", True) for step in steps if step["type"] == "Metaspace" and step.get("replacement") == MARK
    ]
    if len(steps) == 1 and splits == [True] and not prepends:
        return True
    bare = not steps or (len(steps) == 1 and splits == [False] and not prepends)
    return bare and _keeps_words_apart(content, marked=bool(splits))


def _keeps_words_apart(content: dict[str, Any], *, marked: bool) -> bool:
    """Tell whether no merge of a BPE continues past the mark of a space, which every space becomes."""
    model, vocabulary = content["model"], content["model"].get("vocab", {})
    if model["type"] != "BPE" or model.get("ignore_merges") or model.get("dropout"):
        return False
    if not marked and not _marks_spaces(content):
        return False
    return MARK in vocabulary and not any(MARK in piece.lstrip(MARK) for piece in vocabulary)


def _marks_spaces(content: dict[str, Any]) -> bool:
    replacing = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    return replacing in _steps(content.get("normalizer"), "normalizers")


def encode_in_windows(plan: Windowed, text: str) -> NDArray[np.uint32] | None:
    """Return the ids of a long text, or None where a window has no place to cut.

    Args:
        plan: from `windowed`.
        text: any text.
    """
    found: list[NDArray[np.uint32]] = []
    start = 0
    while True:
        window = text[start : start + WINDOW]
        encoding = plan.tokenizer.encode(window, add_special_tokens=False)
        is_last = start + WINDOW >= len(text)
        cut = (len(encoding.ids), len(window)) if is_last else last_cut(plan, encoding, window)
        if cut is None:
            return None
        found.append(np.array(encoding.ids[: cut[0]], dtype=np.uint32))
        if is_last:
            return np.concatenate(found)
        start += cut[1]


def last_cut(plan: Windowed, encoding: "Encoding", window: str) -> tuple[int, int] | None:
    """Return how many tokens are before the last place to cut, and where the next window begins; None if there is none."""
    offsets, words = encoding.offsets, encoding.word_ids
    starts = None
    if plan.borders is not None:
        starts = {start for start, _ in plan.borders.encode(window, add_special_tokens=False).offsets}
    for number in range(len(offsets) - 1, 0, -1):
        place, before = offsets[number][0], offsets[number - 1][1]
        if not 0 < place <= len(window) - MARGIN:
            continue
        if not plan.at_spaces:
            # Not before a run of spaces, of which a pattern may take more when it sees the end of the run.
            in_spaces = window[place].isspace() and window[place + 1].isspace()
            at_border = place == before and words[number] != words[number - 1] and (starts is None or place in starts)
            if at_border and window[place].isascii() and not in_spaces:
                return number, place
            continue
        space = place if window[place] == " " else place - 1
        around = window[space - 1 : space] + window[space + 1]
        if window[space] == " " and before <= space and around.isascii() and not re.search(r"\s", around):
            return number, space + plan.opens_with_mark
    return None


def _load(content: dict[str, Any]) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = True
    return tokenizer


def _added_tokens_look_around(content: dict[str, Any]) -> bool:
    flags = ("lstrip", "rstrip", "single_word")
    return any(token[flag] for token in content["added_tokens"] if not token["special"] for flag in flags)


def _normalizers(content: dict[str, Any]) -> list[str]:
    return [step["type"] for step in _steps(content.get("normalizer"), "normalizers")]


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    return [] if part is None else part.get(name, [part])
