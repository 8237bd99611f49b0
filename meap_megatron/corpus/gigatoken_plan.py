"""What gigatoken is given of a tokenizer.json, and what is done around it where it cannot take the whole.

Two things keep it from tokenizers such as SmolLM2's and StarCoder's that have an equal form all the same:

- digits that are cut off before words are (`Digits` before `ByteLevel`): the text is cut at them here, and the pieces are
  encoded one by one, as `tokenizers` does it;
- bytes without a token, which gigatoken requires and `tokenizers` leaves out: they get ids behind the vocabulary, and a
  text that gives one of them is encoded by `tokenizers` instead.
"""

import functools
import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GigatokenPlan:
    """How a text is encoded.

    Attributes:
        definition: tokenizer.json for gigatoken; special tokens are plain text in it.
        cuts: where a text is cut into pieces; None: nowhere.
        first_filler: ids from here on are bytes without a token; None: there are none.
    """

    definition: str
    cuts: re.Pattern[str] | None
    first_filler: int | None


def gigatoken_plan(definition: str) -> GigatokenPlan:
    """Return the plan for the text of a tokenizer.json."""
    content = json.loads(definition)
    # Without their entries the special tokens are not found in a text; the others (runs of spaces) stay.
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["special"]]
    content["post_processor"] = None
    cuts = _take_digits(content)
    first_filler = _fill_bytes(content)
    return GigatokenPlan(definition=json.dumps(content), cuts=cuts, first_filler=first_filler)


def _take_digits(content: dict[str, Any]) -> re.Pattern[str] | None:
    """Take `Digits` out of the pre-tokenizer and return where it cuts, if nothing else of the tokenizer crosses its cuts."""
    steps = (content.get("pre_tokenizer") or {}).get("pretokenizers") or []
    if [step["type"] for step in steps] != ["Digits", "ByteLevel"] or content.get("normalizer") is not None:
        return None
    digits, rest = steps
    cuts = re.compile(f"([{_numerals()}]{'' if digits['individual_digits'] else '+'})")
    flags = ("lstrip", "rstrip", "single_word")
    if rest.get("add_prefix_space") or any(
        cuts.search(token["content"]) or any(token[flag] for flag in flags) for token in content["added_tokens"]
    ):
        return None
    content["pre_tokenizer"] = rest
    return cuts


def _fill_bytes(content: dict[str, Any]) -> int | None:
    """Give every byte a token; return the first id that was made for it, None if all had one."""
    model, steps = content["model"], _steps(content.get("pre_tokenizer"))
    if model.get("type") != "BPE" or "ByteLevel" not in steps:
        return None
    from tokenizers.pre_tokenizers import ByteLevel

    absent = sorted(set(ByteLevel.alphabet()) - set(model["vocab"]))
    if not absent:
        return None
    taken = [*model["vocab"].values(), *(token["id"] for token in content["added_tokens"])]
    first = max(taken) + 1
    model["vocab"] |= {byte: first + number for number, byte in enumerate(absent)}
    return first


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[str]:
    if pre_tokenizer is None:
        return []
    return [step["type"] for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer])]


@functools.cache
def _numerals() -> str:
    """Return a character class of what `tokenizers` takes for a digit, by its own table of Unicode.

    From plane 2 on there are Chinese characters only, which are letters.
    """
    from tokenizers.pre_tokenizers import Digits

    everything = "".join(chr(code) for code in range(0x20000) if not 0xD800 <= code <= 0xDFFF)
    pieces = Digits(individual_digits=False).pre_tokenize_str(everything)
    digits = Digits(individual_digits=True)
    runs = [piece for piece, _ in pieces if len(digits.pre_tokenize_str("a" + piece[0])) == 2]
    return "".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run in runs)
