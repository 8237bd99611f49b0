"""The registered analysis, on numbers worked out by hand."""

import pytest

from experiments.retrieval_small.analysis import (
    analyse,
    area,
    tokens_to,
    trial_problem,
    verdict,
)
from experiments.retrieval_small.plan import REGISTERED
from experiments.statistics import contrast, holm, sign_flip, t_interval


def scores(accuracies: list[float], *, ratio: float = 0.0, seed: int = 1) -> dict:
    return {
        "ratio": ratio,
        "seed": seed,
        "curve": [
            {"tokens": 100 * look, "facts": {f"{n}": {"accuracy": value, "any_value": 0.5} for n in (2, 4)}}
            for look, value in enumerate(accuracies, start=1)
        ],
        "masked": {"4": {"accuracy": 0.1}},
        "by_place": [0.0, 0.5],
        "training": {"validation_loss": 3.0, "mask_fraction": ratio},
    }


def test_the_primary_metric_is_the_mean_over_the_checkpoints() -> None:
    assert area([0.0, 0.5, 1.0, 0.9]) == pytest.approx(0.6)


def test_tokens_to_a_level_lie_between_two_checkpoints_and_may_not_exist() -> None:
    assert tokens_to(scores([0.1, 0.3, 0.7]), 0.5, facts=4) == pytest.approx(250)
    assert tokens_to(scores([0.8, 0.1]), 0.4, facts=4) == pytest.approx(50)
    assert tokens_to(scores([0.1, 0.3]), 0.5, facts=4) is None


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1, 1, 1, 1, 1, 1], 2 / 256),
        ([-3, -1, -2, -1, -1], 2 / 32),
        ([1, 2, -4], 1.0),  # |sum| = 1: none of the 8 assignments has less
        ([1, 2, 4, -1], 6 / 16),  # |sum| = 6: +-8 once each, +-6 twice each
        ([0, 0], 1.0),
    ],
)
def test_the_sign_flip_test_counts_all_assignments(differences: list[float], p: float) -> None:
    assert sign_flip(differences) == pytest.approx(p)


def test_the_interval_is_that_of_t() -> None:
    # SD 1, standard error 1/sqrt(3), t(2, .975) = 4.30265
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_a_contrast_pairs_by_seed() -> None:
    found = contrast({1: 0.2, 2: 0.4, 3: 0.9}, {2: 0.5, 1: 0.4})
    assert found["seeds"] == [1, 2]
    assert found["differences"] == pytest.approx([0.2, 0.1])
    assert found["mean"] == pytest.approx(0.15)
    assert found["p_t"] == pytest.approx(0.20483, abs=1e-4)  # t = 3 with 1 degree of freedom: 1 - 2 atan(3) / pi


def test_holm_multiplies_the_smallest_p_most_and_keeps_their_order() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9}) == pytest.approx(
        {"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.9}
    )


@pytest.mark.parametrize(
    ("mean", "low", "high", "p", "said"),
    [
        (0.10, 0.03, 0.17, 0.01, "support"),
        (-0.10, -0.17, -0.03, 0.01, "against"),
        (0.10, -0.03, 0.23, 0.10, "undecided"),
        (0.01, 0.002, 0.018, 0.01, "no difference of interest"),
        (0.015, 0.001, 0.029, 0.01, "undecided"),
        (0.0, -0.019, 0.019, 1.0, "no difference of interest"),
    ],
)
def test_the_verdict_follows_the_table_of_the_protocol(mean, low, high, p, said) -> None:
    assert verdict({"mean": mean, "low": low, "high": high, "p": p}) == said


def test_the_comparison_begins_only_after_a_trial_in_which_retrieval_formed_and_not_at_once() -> None:
    plateau, formed, solved = scores([0.1, 0.2]), scores([0.1, 0.6]), scores([0.95, 1.0])
    assert trial_problem(REGISTERED, [formed, formed]) is None
    assert trial_problem(REGISTERED, [formed, solved]) is None
    assert "1 of 2 runs" in (trial_problem(REGISTERED, [formed]) or "")
    assert "did not form" in (trial_problem(REGISTERED, [formed, plateau]) or "")
    assert "solved at the first look" in (trial_problem(REGISTERED, [solved, solved]) or "")


def arms_of(ratio: float, *, lift: float) -> list[dict]:
    return [scores([0.1, 0.3 + lift + seed / 100], ratio=ratio, seed=seed) for seed in REGISTERED.seeds[ratio]]


def test_no_difference_is_given_before_all_seeds_of_both_arms_are_there() -> None:
    ntp, meap = arms_of(0.0, lift=0.0), arms_of(0.15, lift=0.4)
    early = analyse(REGISTERED, [*ntp, *meap[:-1]])
    assert early["contrasts"] == {} and early["verdict"] is None
    secondary = [*REGISTERED.seeds[0.05]]
    assert early["missing"] == {"0.15": [12], "0.05": secondary, "0.3": secondary}

    done = analyse(REGISTERED, [*ntp, *meap, *arms_of(0.05, lift=0.2)])
    assert set(done["contrasts"]) == {"0.15", "0.05"}
    assert done["contrasts"]["0.15"]["area"]["mean"] == pytest.approx(0.2)
    assert done["contrasts"]["0.15"]["area"]["p"] == pytest.approx(2 / 4096)
    assert done["contrasts"]["0.05"]["area"]["seeds"] == secondary
    assert done["verdict"] == "support"
    assert done["summary"]["0.15"]["tokens_to_0.5"]["arms"] == 12
    assert done["summary"]["0"]["tokens_to_0.5"] == {"arms": 0, "median": None}
