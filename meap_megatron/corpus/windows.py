"""Long texts through `tokenizers` piece by piece, where the ids of the pieces are provably those of the whole.

The library takes about 110 bytes of memory for a byte of text, so that a line of 64 MB needs 7 GB. A text is cut where the
pre-tokenizer cuts it, far enough from the end of a window that nothing behind it can have decided. From such a place on a
scanning pattern without a look behind finds what it found in the whole, and a model never looks beyond one word.
"""

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

WINDOW = 2**18  # characters encoded at once
MARGIN = 2**12  # at its end, where what follows may decide
LOCAL_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase")  # exact on both sides of an ASCII character
LOOKS_BEHIND = re.compile(r"\(\?<|\\[bBAGzZ]|(?<!\[)\^|\$")


def windowed(definition: str) -> "Tokenizer | None":
    """Return a tokenizer whose offsets tell where a text may be cut, or None where no cut is known to be exact.

    Args:
        definition: text of the tokenizer.json.
    """
    from tokenizers import Tokenizer

    content = json.loads(definition)
    if not is_cuttable(content):
        return None
    for step in _steps(content["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "ByteLevel":
            step["trim_offsets"] = False  # else a token does not own the space before it
    content["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.encode_special_tokens = True
    return tokenizer


def is_cuttable(content: dict[str, Any]) -> bool:
    """Tell whether the pieces of a text give its ids, by the rules of a tokenizer.json."""
    if any(step["type"] not in LOCAL_NORMALIZERS for step in _steps(content.get("normalizer"), "normalizers")):
        return False
    flags = ("lstrip", "rstrip", "single_word")
    if any(token[flag] for token in content["added_tokens"] if not token["special"] for flag in flags):
        return False
    scanning = 0
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    for step in steps:
        if step["type"] == "ByteLevel" and not step.get("add_prefix_space"):
            scanning += step.get("use_regex", True)
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and "Regex" in step["pattern"]:
            if step.get("invert") or LOOKS_BEHIND.search(step["pattern"]["Regex"]):
                return False
            scanning += 1
        elif step["type"] != "Digits":
            return False
    return scanning == 1  # a second one would see the words of the first, which a cut may have shortened


def encode_in_windows(tokenizer: "Tokenizer", text: str) -> NDArray[np.uint32] | None:
    """Return the ids of a long text, or None where a window has no place to cut.

    Args:
        tokenizer: from `windowed`.
        text: any text.
    """
    found: list[NDArray[np.uint32]] = []
    start = 0
    while True:
        window = text[start : start + WINDOW]
        encoding = tokenizer.encode(window, add_special_tokens=False)
        is_last = start + WINDOW >= len(text)
        count = len(encoding.ids) if is_last else last_cut(encoding, window)
        if count is None:
            return None
        found.append(np.array(encoding.ids[:count], dtype=np.uint32))
        if is_last:
            return np.concatenate(found)
        start += encoding.offsets[count][0]


def last_cut(encoding: "Encoding", window: str) -> int | None:
    """Return the last token that begins a word at an ASCII character, the margin apart; None if there is none."""
    offsets, words = encoding.offsets, encoding.word_ids
    for number in range(len(offsets) - 1, 0, -1):
        place = offsets[number][0]
        if (
            0 < place <= len(window) - MARGIN
            and words[number] != words[number - 1]
            and place == offsets[number - 1][1]
            and window[place].isascii()
        ):
            return number
    return None


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    return [] if part is None else part.get(name, [part])
