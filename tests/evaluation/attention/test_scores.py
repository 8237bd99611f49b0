"""Score Decay and Variance Increase on numbers that one computes by hand."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from meap_megatron.evaluation.attention import paired, scores


def uniform(length: int, *, layers: int = 1) -> np.ndarray:
    """What keys receive if every query attends equally to all keys up to its own: float64[2, L, T]."""
    weights = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    return np.stack([np.stack([weights.sum(0)] * layers), np.stack([weights[-1]] * layers)])


def test_scores_of_uniform_attention() -> None:
    found = scores.sequence_scores(uniform(4), masked=np.array([2]))
    a = np.array([25, 13, 7, 3]) / 48  # (1 + 1/2 + 1/3 + 1/4) / 4, ...
    assert found["full"]["masked"] == pytest.approx(7 / 48)
    assert found["full"]["variance"] == pytest.approx(np.var([a[0], a[1], a[3]]))
    # Over the queries that see the key: 4, 3, 2 and 1 of them.
    assert found["valid"]["masked"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert found["last_query"] == {"masked": pytest.approx(1 / 4), "variance": pytest.approx(0)}
    assert found["no_sink"]["masked"] == pytest.approx(7 / 48)
    assert found["no_sink"]["variance"] == pytest.approx(((a[1] - a[3]) / 2) ** 2)


def test_layers_are_averaged_and_also_kept() -> None:
    received = uniform(4, layers=2)
    received[:, 1] = [[4, 0, 0, 0], [1, 0, 0, 0]]  # the second layer looks at key 0 only
    found = scores.sequence_scores(received, masked=np.array([1, 2]))
    assert found["per_layer"]["masked"] == pytest.approx([10 / 48, 0])
    assert found["full"]["masked"] == pytest.approx(5 / 48)
    assert found["per_layer"]["variance"][1] == pytest.approx(0.25)


def test_without_the_sink_position_0_is_left_out_of_the_masked_ones_too() -> None:
    found = scores.sequence_scores(uniform(4), masked=np.array([0, 2]))
    assert found["full"]["masked"] == pytest.approx((25 + 7) / 96)
    assert found["no_sink"]["masked"] == pytest.approx(7 / 48)


def cell(masked: float, variance: float) -> dict[str, Any]:
    part = {"masked": masked, "variance": variance}
    layer = {"masked": [masked, 2 * masked], "variance": [variance, variance]}
    return {**{name: part for name in scores.SCORES}, "per_layer": layer}


SEQUENCES = [
    {
        "ntp_clean": cell(4, 10),
        "ntp_masked": cell(2, 10),
        "meap_clean": cell(4, 11),
        "meap_masked": cell(1, 12),
    },
    {
        "ntp_clean": cell(2, 20),
        "ntp_masked": cell(2, 10),
        "meap_clean": cell(1, 22),
        "meap_masked": cell(1, 21),
    },
    {
        "ntp_clean": cell(2, 30),
        "ntp_masked": cell(2, 10),
        "meap_clean": cell(1, 27),
        "meap_masked": cell(0, 30),
    },
]


def test_decay_is_the_loss_of_attention_and_increase_the_gain_of_variance() -> None:
    table = scores.compare(SEQUENCES)["full"]["table_10"]
    decay, variance = table["decay"], table["variance_increase"]
    assert decay["decay"] == pytest.approx((8 - 2) / 8)  # of the averages
    assert decay["mean_decay"] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)  # average of the sequences' own
    assert decay["difference"] == pytest.approx(-2)
    assert variance["relative"] == pytest.approx(63 / 60 - 1)
    assert variance["mean_relative"] == pytest.approx((0.2 + 0.05 + 0) / 3)
    assert variance["difference"] == pytest.approx(1)
    # As in Table 10, a decay has a negative t and an increase a positive one.
    assert decay["tests"]["paired_t"]["statistic"] < 0 < variance["tests"]["paired_t"]["statistic"]


def test_the_two_by_two_control_takes_model_and_input_apart() -> None:
    full = scores.compare(SEQUENCES)["full"]
    assert full["model"]["decay"]["decay"] == pytest.approx(1 - 6 / 8)
    assert full["input"]["decay"]["decay"] == pytest.approx(1 - 2 / 6)
    assert full["input_of_ntp"]["decay"]["decay"] == pytest.approx(1 - 6 / 8)
    assert full["model_on_masked"]["decay"]["decay"] == pytest.approx(1 - 2 / 6)
    # Multiplied, the parts are the whole.
    parts = (1 - full["model"]["decay"]["decay"]) * (1 - full["input"]["decay"]["decay"])
    assert 1 - parts == pytest.approx(full["table_10"]["decay"]["decay"])
    assert scores.compare(SEQUENCES)["per_layer"]["input"]["decay"] == pytest.approx([1 - 2 / 6] * 2)


def test_a_cell_that_could_not_be_run_takes_its_comparisons_with_it() -> None:
    three = [{name: value for name, value in sequence.items() if name != "ntp_masked"} for sequence in SEQUENCES]
    assert scores.compare(three)["full"].keys() == {"table_10", "model", "input"}


def test_the_tests_are_those_of_the_formulas() -> None:
    before, after = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 2.5, 5, 4.2, 7])
    found = paired.tests(before, after)
    differences = after - before
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(5))
    assert found["paired_t"]["statistic"] == pytest.approx(t)
    assert found["paired_t"]["df"] == 4
    assert found["paired_t"]["p"] == pytest.approx(2 * stats.t.sf(t, 4))
    welch = (after.mean() - before.mean()) / np.sqrt(after.var(ddof=1) / 5 + before.var(ddof=1) / 5)
    assert found["welch_t"]["statistic"] == pytest.approx(welch)
    # For samples of one size only the degrees of freedom tell Welch's test from Student's, which has 8.
    spread = np.array([after.var(ddof=1), before.var(ddof=1)]) / 5
    assert found["welch_t"]["df"] == pytest.approx(spread.sum() ** 2 / (spread**2 / 4).sum())
    assert found["welch_t"]["df"] < 7.9
    assert found["wilcoxon"]["p"] == pytest.approx(2 / 2**5)  # all five positive: two of 32 sign patterns


def test_no_difference_and_one_sample_have_no_test() -> None:
    for before, after in (([1.0, 2], [1.0, 2]), ([1.0], [2.0])):
        found = paired.change(before, after)
        assert found["tests"] == {"n": len(before), "paired_t": None, "welch_t": None, "wilcoxon": None}
    assert paired.change([0.0, 0], [1.0, 1])["relative"] is None
