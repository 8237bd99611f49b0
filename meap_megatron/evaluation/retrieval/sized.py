"""Samples made of units (sentences, words, documents): as many as fit in a length, and never more.

The generators of the harness grow and shrink a sample in fixed steps, some of them endlessly below 4,096 tokens. Here the
size is searched between bounds: the search ends whatever the tokenizer, and what cannot be made is counted as unfit.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.evaluation.prompt_length import Measure
from meap_megatron.evaluation.retrieval import documents

FORMAT = 1
"""Of the cached sizes: to be raised when the same arguments draw another sample."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A sample of some size."""

    question: str
    """Context and question: what a user says."""
    outputs: list[str]
    """What the answer must contain."""
    start: str = ""
    """Words with which the answer begins."""
    joint: str = " "
    """What is between the two where they are one text."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """How samples of one task and length are made."""

    draw: Callable[[int, int], Draft]
    """Units and index -> sample; the same sample for the same arguments within `seeded`."""
    fewest: Callable[[int], int]
    """Index -> units without which it is not a sample."""
    most: int
    """Units that there are."""
    new_tokens: int
    """Tokens of the answer."""


def build(
    maker: Callable[[int], Maker],
    measure: Measure,
    *,
    lengths: list[int],
    samples: int,
    seed: int,
    key: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield `samples` samples of every length.

    Args:
        maker: from a length to how its samples are made.
        lengths: tokens of prompt and answer together.
        key: `task`, and what else the samples depend on.
    """
    for length in lengths:
        possible = measure.limit is None or length <= measure.limit
        made = maker(length) if possible else None
        sizes: list[int | None] = [None] * samples
        if made is not None:
            place = cache_file(measure, {**key, "length": length, "seed": seed, "samples": samples})
            root = (key["task"], seed, length)
            sizes = read_sizes(place, samples) or find_sizes(made, measure, length, samples=samples, root=root)
            write_sizes(place, sizes)
        for index, units in enumerate(sizes):
            draft = None
            if made is not None and units is not None:
                with seeded(key["task"], seed, length, index):
                    draft = made.draw(units, index)
            yield {
                "prompt": measure.wrap(draft.question, draft.start, joint=draft.joint)
                if draft
                else documents.PLACEHOLDER,
                "outputs": draft.outputs if draft else [],
                "length": length,
                "fits": draft is not None,
            }


def find_sizes(
    maker: Maker, measure: Measure, length: int, *, samples: int, root: tuple[str | int, ...]
) -> list[int | None]:
    """Return the units of every sample, None where even the fewest do not fit; `root` and the index seed a sample."""

    def fits(index: int, units: int) -> bool:
        with seeded(*root, index):
            draft = maker.draw(units, index)
        tokens = measure.count(draft.question, draft.start, joint=draft.joint)
        return tokens + maker.new_tokens <= length

    sizes: list[int | None] = []
    common = 0
    for index in range(samples):
        fewest = min(maker.fewest(index), maker.most)
        # Samples of one length are nearly of one size: the first is searched, the others start from it.
        common = common or largest(partial(fits, index), fewest=fewest, most=maker.most)
        units = max(common, fewest)
        while not (fitting := fits(index, units)) and units > fewest:
            units = max(fewest, min(units - 1, units - units // 32))
        sizes.append(units if fitting else None)
    return sizes


def largest(fits: Callable[[int], bool], *, fewest: int, most: int) -> int:
    """Return the most units that fit, up to 1/64 fewer; 0 if `fewest` do not."""
    if not fits(fewest):
        return 0
    low, high = fewest, max(2 * fewest, fewest + 8)
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@contextmanager
def seeded(*key: str | int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, which the harness draws from, and restore them at the end."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    states = random.getstate(), np.random.get_state()
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "big"))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def cache_file(measure: Measure, key: Mapping[str, Any]) -> Path | None:
    """Return where the sizes of such samples are kept; None if nothing tells one tokenizer from another.

    Counting tokens takes most of the time of making samples, and a size takes a few bytes where a sample takes half a
    megabyte: a sample is drawn again from its size.
    """
    backend = getattr(measure.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    counted = (backend.to_str(), measure.wrap("x"), measure.count("x"), measure.override)
    name = hashlib.sha256(json.dumps([FORMAT, counted, key], sort_keys=True).encode()).hexdigest()
    root = os.environ.get("MEAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(root) / "meap_megatron" / "samples" / f"{name}.json"


def read_sizes(path: Path | None, samples: int) -> list[int | None] | None:
    """Return cached sizes, or None."""
    try:
        sizes = json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None
    return sizes if isinstance(sizes, list) and len(sizes) == samples else None


def write_sizes(path: Path | None, sizes: list[int | None]) -> None:
    """Keep sizes; a folder that cannot be written only costs time."""
    try:
        if path and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps(sizes), shared=True)
    except (OSError, RunError, UserError):
        return
