"""Scoring, with models whose answers are known."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.retrieval_small.rows import Row
from experiments.retrieval_small.score import by_facts, by_place, encode, mask, read_answers
from meap_megatron.errors import RunError
from meap_megatron.tokenizer.train import train_tokenizer

ROWS = [
    Row(
        text=" ! bado kimu one ! tera viso ? tera viso ? bado kimu",
        pairs=(("bado", "kimu"), ("tera", "viso")),
        asked=(1, 0),
    ),
    Row(text=" ! miko zilu" + " one" * 7 + " ? miko zilu", pairs=(("miko", "zilu"),), asked=(0,)),
]
LENGTH = 15


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([row.text for row in ROWS] * 20, folder, vocab_size=320)
    return folder


@pytest.fixture(scope="module")
def ids(tokenizer: Path) -> np.ndarray:
    return encode(ROWS, tokenizer, length=LENGTH)


class Model:
    """Answers at every position by a function of the ids up to there."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def model(self, batch: torch.Tensor) -> SimpleNamespace:
        rows = [[self.answer(row[: at + 1]) for at in range(len(row))] for row in batch.tolist()]
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(torch.tensor(rows), 400).float())

    def lm_head(self, states: torch.Tensor) -> torch.Tensor:
        return states


def retrieve(seen: list[int]) -> int:
    """Return what stood behind the last token when it stood there first."""
    return seen[min(seen.index(seen[-1]) + 1, len(seen) - 1)]


def first_value(seen: list[int]) -> int:
    return seen[3] if len(seen) > 3 else 0


def test_a_model_that_retrieves_scores_one_and_one_that_never_answers_scores_zero(ids: np.ndarray) -> None:
    right = by_facts(ROWS, ids, read_answers(Model(retrieve), ids, ROWS))
    assert right == {
        "1": {"questions": 1, "accuracy": 1.0, "any_value": 1.0},
        "2": {"questions": 2, "accuracy": 1.0, "any_value": 1.0},
    }
    silent = by_facts(ROWS, ids, read_answers(Model(lambda seen: 399), ids, ROWS))
    assert [silent[n]["accuracy"] + silent[n]["any_value"] for n in ("1", "2")] == [0.0, 0.0]


def test_a_model_that_says_some_value_of_the_row_is_told_from_one_that_retrieves(ids: np.ndarray) -> None:
    answers = read_answers(Model(first_value), ids, ROWS)
    assert by_facts(ROWS, ids, answers)["2"] == {"questions": 2, "accuracy": 0.5, "any_value": 1.0}
    assert by_place(ROWS, ids, answers, num_facts=2) == [1.0, 0.0]  # the first fact, which is asked for last


def test_a_row_of_another_length_is_refused(tokenizer: Path) -> None:
    with pytest.raises(RunError, match="has 15 tokens, not 16"):
        encode(ROWS, tokenizer, length=16)


def test_a_row_whose_questions_stand_elsewhere_is_refused(tokenizer: Path) -> None:
    moved = Row(text=ROWS[0].text, pairs=ROWS[0].pairs, asked=(0, 1))
    with pytest.raises(RunError, match=r"reads \['tera', 'viso'\], not \('bado', 'kimu'\)"):
        encode([moved], tokenizer, length=LENGTH)


def test_masked_rows_have_the_share_of_training_and_never_the_last_input(ids: np.ndarray) -> None:
    many = np.repeat(ids[:1], 200, axis=0)
    masked = mask(many, mask_id=2)
    assert ((masked == 2).sum(axis=1) == 2).all()  # floor(15 x .15)
    assert (masked[:, -1] != 2).all()
    assert np.array_equal(masked[masked != 2], many[masked != 2])
    assert len(np.unique(np.argwhere(masked == 2)[:, 1])) == LENGTH - 1
    assert np.array_equal(masked, mask(many, mask_id=2))
