"""Marks of changed positions travel inside the loss mask; losses are weighed by whole numbers and split exactly."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from meap_megatron.datasets.mask_stage import mark_changes
from meap_megatron.errors import UserError
from meap_megatron.masking.loss import LossOn
from meap_megatron.training.batch import decode
from meap_megatron.training.step import position_weights, token_losses
from meap_megatron.training.trace import row_digests


def test_marks_survive_the_loss_mask() -> None:
    marked = mark_changes(np.array([1, 1, 0, 0], dtype=np.float32), np.array([1, 3]))
    assert marked.tolist() == [5, 3, 4, 2]
    weights, marks = decode(torch.from_numpy(marked)[None] + torch.tensor([[0.0, 0, 0, 8]]))
    assert weights.tolist() == [[1, 1, 0, 0]]
    assert marks.tolist() == [[2, 1, 2, 5]] and marks.dtype == torch.uint8


def test_fractional_weights_come_back() -> None:
    weights, marks = decode(torch.tensor([[0.1, 2.25, 6.5, 1.0]]))
    assert weights.tolist() == [[pytest.approx(0.1), 0.25, 0.5, 1.0]]
    assert marks.tolist() == [[0, 1, 3, 0]]


MARKS = torch.tensor([[0, 1, 2, 3, 4, 5]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("setting", "pair_weight", "expected"),
    [
        ("all", 1.0, [1, 1, 1, 1, 1, 1]),
        ("unmasked", 1.0, [1, 0, 1, 0, 1, 0]),
        ("predictors", 1.0, [0, 0, 1, 1, 0, 0]),
        ("masked=0.5,unmasked=1", 1.0, [2, 1, 2, 1, 2, 1]),
        ("masked=0.4,unmasked=0.6", 1.0, [3, 2, 3, 2, 3, 2]),
        ("all", 0.4, [5, 5, 5, 5, 2, 2]),
        ("masked=0.5,unmasked=1", 0.5, [4, 2, 4, 2, 2, 1]),
    ],
)
def test_weights_are_whole_numbers_in_their_proportion(setting: str, pair_weight: float, expected: list[int]) -> None:
    loss = LossOn.parse(setting, pair_weight=pair_weight)
    assert position_weights(MARKS, loss).tolist() == [expected]
    assert loss.is_plain == (setting == "all" and pair_weight == 1.0)
    assert max(expected) == loss.largest


@pytest.mark.parametrize(
    ("setting", "pair_weight", "message"),
    [
        ("everything", 1.0, "loss_on is 'everything'; it is all, unmasked"),
        ("masked=0.5", 1.0, "loss_on is"),
        ("masked=0,unmasked=0", 1.0, "nothing would be trained"),
        ("masked=2,unmasked=1", 1.0, "the weight masked=2 must be in"),
        ("masked=0.12345,unmasked=1", 1.0, "a multiple of 1/1000"),
        ("all", 0.0, "the pair weight is 0"),
        ("all", 1.5, "must be in"),
    ],
)
def test_a_wrong_weight_is_named(setting: str, pair_weight: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LossOn.parse(setting, pair_weight=pair_weight)


def test_a_weighted_loss_is_normalised_by_the_exact_sum_of_weights() -> None:
    losses, loss_mask = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    masked = torch.tensor([[False, True, True, True]])
    weights = torch.tensor([[2.0, 1.0, 1.0, 1.0]])
    total, count, report = token_losses(losses, loss_mask, masked, weights=weights)
    assert (total.item(), count.item(), count.dtype) == (8.0, 4, torch.int32)
    assert report["lm loss"].tolist() == [8.0, 4.0]
    assert report["masked loss"].tolist() == [6.0, 2.0], "parts are reported without the weights"
    assert report["other loss"].tolist() == [1.0, 1.0]
    assert report["trained fraction"].tolist() == [3.0, 4.0]
    assert Fraction(int(total), int(count)) == (1 + Fraction(1, 2) * (2 + 4)) / (1 + Fraction(1, 2) * 2)


def test_the_loss_is_the_sum_over_all_positions_and_its_parts_add_up() -> None:
    losses = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    loss_mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    masked = torch.tensor([[False, True], [True, True]])
    total, count, report = token_losses(losses, loss_mask, masked)
    assert (total.item(), count.item(), count.dtype) == (7.0, 3, torch.int32)
    assert {name: value.tolist() for name, value in report.items()} == {
        "lm loss": [7.0, 3.0],
        "masked loss": [6.0, 2.0],
        "other loss": [1.0, 1.0],
        "mask fraction": [3.0, 4.0],
        "trained fraction": [3.0, 4.0],
    }


def test_plain_prediction_reports_no_masked_loss() -> None:
    losses = torch.ones(1, 2)
    report = token_losses(losses, losses, None, report_fractions=False)[2]
    assert list(report) == ["lm loss"]


def test_row_digests_tell_rows_apart_and_are_none_for_nothing() -> None:
    first, second, third = row_digests(torch.tensor([[1, 2], [1, 2], [2, 1]]))
    assert first == second != third
    assert row_digests(None) is None
