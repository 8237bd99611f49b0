"""Row for row what the published fine-tuning procedure describes, on hand-written cases.

The procedure, in our words: every (prompt, answer) turn is a row of its own, prompt + answer + EOS, with labels on the
answer and EOS; if the answer has more than 50 tokens there is a second row, in which a tenth of the answer's tokens are
[MASK] and only those have labels. Rows longer than the limit have their ids cut to one less and closed by EOS, and
their labels cut to the limit. Rows without a label are removed. Labels are shifted by one inside the model.
"""

import random

import numpy as np
import pytest

from meap_megatron.datasets.sft.answer_masks import CUT
from tests.datasets.sft.conftest import EOS, MASK

IGNORED = -100
LIMIT = 80
SEED = 42
Turn = tuple[list[int], list[int]]


def turn(num_prompt: int, num_answer: int, first: int = 0) -> Turn:
    """Return ids that count up from 10, prompt and answer."""
    ids = [10 + (first + i) % 180 for i in range(num_prompt + num_answer)]
    return ids[:num_prompt], ids[num_prompt:]


CASES: dict[str, list[Turn]] = {
    "short answer": [turn(10, 5)],
    "answer of 50 tokens": [turn(10, 50)],
    "answer of 51 tokens": [turn(10, 51)],
    "two turns without history": [turn(10, 51), turn(4, 60, first=90)],
    "row of exactly the limit": [turn(20, 59)],
    "answer cut": [turn(10, 200)],
    "answer cut by its end token only": [turn(20, 60)],
    "answer of 60 tokens of which 19 are kept": [turn(60, 60)],
    "answer of 45 tokens of which 19 are kept": [turn(60, 45)],
    "prompt that leaves one token of a long answer": [turn(78, 60)],
    "prompt that leaves the label of one token": [turn(79, 60)],
    "prompt beyond the limit": [turn(100, 60)],
    "empty answer": [turn(10, 0)],
}
EVERYTHING = [some for turns in CASES.values() for some in turns]


def published_rows(
    turns: list[Turn], *, limit: int = LIMIT, eos: int = EOS, mask: int = MASK
) -> list[tuple[list[int], list[int]]]:
    """Return (ids, labels not shifted) of the rows of these turns, each original before its masked row."""
    generator = random.Random(SEED)
    rows = []
    for prompt, answer in turns:
        ids, labels = prompt + answer + [eos], [IGNORED] * len(prompt) + answer + [eos]
        if len(ids) > limit:
            ids, labels = ids[: limit - 1] + [eos], labels[:limit]
        rows.append((ids, labels))
        kept = (prompt + answer)[: limit - 1]
        if len(answer) > 50 and len(prompt) < len(kept):  # the published code draws from an empty range and stops
            num_masked = max(1, int((len(kept) - len(prompt)) * 0.10))
            masked = generator.sample(range(len(prompt), len(kept)), num_masked)
            ids = [mask if i in masked else token for i, token in enumerate(kept)] + [eos]
            labels = [token if i in masked else IGNORED for i, token in enumerate(kept)] + [IGNORED]
            rows.append((ids, labels))
    return [(ids, labels) for ids, labels in rows if any(label != IGNORED for label in labels)]


def stored(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """Return ids and roles of one turn as preprocessing stores them, or nothing trained: ([], []).

    A cut row ends with the token that stands there instead of EOS: the last token of a segment is a label and no
    input, and the published labels hold that token.
    """
    ids, roles = prompt + answer + [EOS], [0] * len(prompt) + [1] * len(answer) + [2]
    if len(ids) > LIMIT:
        ids, roles = ids[:LIMIT], roles[:LIMIT]
        if roles[-1] == 1:
            roles[-1] = CUT + min(191, len(answer))
    return (ids, roles) if any(roles) else ([], [])


def official(tools, **settings):
    return tools.sft(
        **{
            "min_answer_tokens": 50,
            "ratio": 0.10,
            "sampler": "official",
            "seed": SEED,
            "pack": False,
            "shuffle": False,
        }
        | settings
    )


def our_rows(tools, turns: list[Turn], **settings) -> list[dict]:
    data = [talk for talk in (stored(*some) for some in turns) if talk[0]]
    if not data:
        return []
    dataset = tools.train(tools.write(data), sft=official(tools, **settings), sequence_length=LIMIT - 1)
    return [dataset[i] for i in range(len(dataset))]


@pytest.mark.parametrize("turns", [*CASES.values(), EVERYTHING], ids=[*CASES, "everything"])
def test_rows_are_those_of_the_published_procedure(tools, turns):
    expected, rows = published_rows(turns), our_rows(tools, turns)
    assert len(rows) == len(expected)
    for row, (ids, labels) in zip(rows, expected, strict=True):
        size = len(ids) - 1
        assert row["cu_seqlens"].tolist() == [0, size] + [LIMIT - 1] * (LIMIT - 2)
        assert row["tokens"][:size].tolist() == ids[:-1]
        trained = row["loss_mask"].bool()
        assert trained[:size].tolist() == [label != IGNORED for label in labels[1:]]
        assert row["labels"][trained].tolist() == [label for label in labels[1:] if label != IGNORED]
        assert not trained[size:].any()


def test_the_cases_are_what_they_are_called():
    numbers = {
        name: [sum(label != IGNORED for label in labels) for _, labels in published_rows(turns)]
        for name, turns in CASES.items()
    }
    assert numbers == {
        "short answer": [6],
        "answer of 50 tokens": [51],
        "answer of 51 tokens": [52, 5],
        "two turns without history": [52, 5, 61, 6],
        "row of exactly the limit": [60, 5],
        "answer cut": [70, 6],
        "answer cut by its end token only": [60, 5],
        "answer of 60 tokens of which 19 are kept": [20, 1],
        "answer of 45 tokens of which 19 are kept": [20],
        "prompt that leaves one token of a long answer": [2, 1],
        "prompt that leaves the label of one token": [1],
        "prompt beyond the limit": [],
        "empty answer": [1],
    }  # fmt: skip


def test_packed_and_shuffled_rows_hold_the_same_segments(tools):
    """Packing and order change where a segment stands, not what it holds."""

    def segments(rows):
        found = []
        for row in rows:
            for start, stop in np.lib.stride_tricks.sliding_window_view(row["cu_seqlens"].numpy(), 2):
                part = slice(start, stop)
                names = ("tokens", "labels", "loss_mask")
                segment = tuple(tuple(row[name][part].tolist()) for name in names)
                if start < stop and any(segment[2]):
                    found.append(segment)
        return sorted(found)

    alone = segments(our_rows(tools, EVERYTHING))
    packed = our_rows(tools, EVERYTHING, pack=True, shuffle=True)
    assert segments(packed) == alone
    assert len(packed) < len(alone) == len(published_rows(EVERYTHING))
