"""Intervals and paired comparisons, against literal values and scipy."""

import numpy as np
import pytest
from scipy import stats

from meap_megatron.evaluation.statistics import compare, interval


def test_no_right_answer_of_twelve_is_not_certain_to_be_0() -> None:
    assert interval([0.0] * 12) == pytest.approx((0.0, 0.2425), abs=1e-4)


def test_right_and_wrong_answers_are_compared_by_mcnemars_exact_test_with_an_interval_that_agrees() -> None:
    before = [0.0] * 8 + [1.0] * 2 + [1.0] * 30
    after = [1.0] * 8 + [0.0] * 2 + [1.0] * 30
    found = compare(before, after)
    assert found["difference"] == pytest.approx(6 / 40)
    assert found["p"] == pytest.approx(2 * sum(stats.binom.pmf(k, 10, 0.5) for k in range(3)))
    low, high = stats.binomtest(8, 10).proportion_ci(method="exact")
    assert (found["low"], found["high"]) == pytest.approx(((2 * low - 1) * 10 / 40, (2 * high - 1) * 10 / 40))
    for wins in range(11):
        one = compare([0.0] * wins + [1.0] * (10 - wins), [1.0] * wins + [0.0] * (10 - wins))
        assert one["p"] is not None and one["low"] is not None and one["high"] is not None
        assert (one["p"] < 0.05) == (not one["low"] <= 0 <= one["high"])


def test_other_scores_are_compared_by_flipping_the_signs_of_the_differences() -> None:
    found = compare([0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.6, 0.8])
    assert found["p"] == 2 / 2**4  # the observed signs and their reverse
    assert found["difference"] == pytest.approx(0.25)
    assert found["low"] == pytest.approx(0.25 - stats.t.ppf(0.975, 3) * np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2)


def test_many_differing_scores_are_compared_by_students_test() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.random(200), generator.random(200)
    assert compare(before.tolist(), after.tolist())["p"] == pytest.approx(stats.ttest_rel(after, before).pvalue)


def test_other_questions_are_compared_by_welchs_test_and_too_few_not_at_all() -> None:
    before, after = [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 1.0, 1.0]
    found = compare(before, after, paired=False)
    assert found["p"] == pytest.approx(stats.ttest_ind(after, before, equal_var=False).pvalue)
    assert compare([0.0], [1.0], paired=False)["p"] is None


def test_equal_answers_show_no_difference() -> None:
    assert compare([0.3, 1.0], [0.3, 1.0]) == {"difference": 0.0, "low": None, "high": None, "p": 1.0}
