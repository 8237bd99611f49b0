"""Masked positions travel inside the loss mask, and losses are split exactly."""

import pytest
import torch

from meap_megatron.training.batch import decode, encode
from meap_megatron.training.step import token_losses
from meap_megatron.training.trace import row_digests

MASK = 9


def test_masked_positions_survive_the_loss_mask() -> None:
    tokens = torch.tensor([[5, MASK, 7, MASK]])
    loss_mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    encoded = encode(loss_mask, tokens, MASK)
    assert encoded.tolist() == [[1.0, 3.0, 0.0, 2.0]]
    weights, masked = decode(encoded)
    assert weights.tolist() == loss_mask.tolist()
    assert masked.tolist() == [[False, True, False, True]]


def test_in_fine_tuning_the_position_that_predicts_a_masked_token_counts() -> None:
    tokens = torch.tensor([[5, MASK, 7, MASK]])
    _, masked = decode(encode(torch.ones(1, 4), tokens, MASK, of_target=True))
    assert masked.tolist() == [[True, False, True, False]]


def test_fractional_weights_come_back_exactly() -> None:
    loss_mask = torch.tensor([[0.1, 0.1, 1.0]])
    weights, _ = decode(encode(loss_mask, torch.tensor([[1, MASK, MASK]]), MASK))
    assert weights[0, 0] == loss_mask[0, 0]
    assert weights[0, 1] == pytest.approx(0.1, abs=3e-7)


def test_without_a_mask_token_the_loss_mask_is_untouched() -> None:
    loss_mask = torch.ones(1, 3)
    assert encode(loss_mask, torch.tensor([[MASK, 1, 2]]), None) is loss_mask


def test_the_loss_is_the_sum_over_all_positions_and_its_parts_add_up() -> None:
    losses = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    loss_mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    masked = torch.tensor([[False, True], [True, True]])
    total, count, report = token_losses(losses, loss_mask, masked, report_masked=True)
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
    report = token_losses(losses, losses, losses.bool(), report_masked=False, report_fractions=False)[2]
    assert list(report) == ["lm loss"]


def test_row_digests_tell_rows_apart_and_are_none_for_nothing() -> None:
    first, second, third = row_digests(torch.tensor([[1, 2], [1, 2], [2, 1]]))
    assert first == second != third
    assert row_digests(None) is None
