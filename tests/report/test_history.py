"""Numbers from records, with literal records."""

import pytest

from meap_megatron.demo.sections import step_ratio
from meap_megatron.report.history import read_results, smoothed


def step(number, loss, *, seconds=1.0, masked=None):
    return {
        "event": "step",
        "step": number,
        "lm_loss": loss,
        "masked_loss": masked,
        "other_loss": loss,
        "mask_fraction": 0.0 if masked is None else 0.25,
        "consumed_tokens": number * 8,
        "tokens_per_second": 8 / seconds,
        "mfu": None,
        "seconds": seconds,
    }


RECORDS = [
    {"event": "start", "step": 0, "run": {"seed": 1}},
    step(1, 9.0, seconds=99.0, masked=9.5),
    *(step(number, 8.0, seconds=98.0) for number in range(2, 6)),
    step(6, 4.0, seconds=2.0, masked=5.0),
    {"event": "validation", "step": 6, "lm_loss": 4.5, "masked_loss": None, "other_loss": 4.5},
    step(7, 3.0, seconds=3.0),
    step(8, 2.0, seconds=4.0),
    {"event": "validation", "step": 8, "lm_loss": 2.5, "masked_loss": None, "other_loss": 2.5},
    {"event": "end", "step": 8, "seconds": 500.0},
]


def test_timings_are_medians_without_the_first_steps():
    results = read_results(RECORDS)
    assert results.median("seconds") == 3.0
    assert results.median("tokens_per_second") == pytest.approx(8 / 3)
    slower = read_results([RECORDS[0], *(step(number, 2.0, seconds=6.0) for number in range(1, 9))])
    assert step_ratio(results, slower) == 2.0


def test_counts_and_losses_are_those_of_the_records():
    results = read_results(RECORDS)
    assert (results.last_step, results.consumed_tokens) == (8, 64)
    assert results.validation_loss == 2.5
    assert results.final("lm_loss") == 2.0
    assert results.points("masked_loss") == [(1, 9.5), (6, 5.0)]


def test_a_run_without_steps_has_no_numbers():
    results = read_results(RECORDS[:1])
    assert results.last_step == results.consumed_tokens == 0
    assert (results.median("seconds"), results.validation_loss, results.final("lm_loss")) == (None,) * 3
    assert step_ratio(results, read_results(RECORDS)) is None


def test_the_running_mean_is_centred_and_shorter_at_the_ends():
    assert smoothed([(1, 2.0), (2, 4.0), (3, 9.0)], window=3) == [(1, 3.0), (2, 5.0), (3, 6.5)]
    assert smoothed([(1, 2.0), (2, 4.0)], window=1) == [(1, 2.0), (2, 4.0)]
