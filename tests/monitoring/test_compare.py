"""`meap compare` names the first step and field that differ, and sets losses beside each other at equal tokens."""

import json
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.monitoring.compare import compare
from meap_megatron.monitoring.records import read_history
from tests.monitoring.runs import write_run

LOSSES = [4.0 - 0.01 * step for step in range(100)]


def test_equal_runs_are_equal_to_the_last_bit_whatever_they_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write_run(tmp_path / "a", LOSSES), write_run(tmp_path / "b", LOSSES, seed=2)
    assert main(["compare", str(first), str(second), "--assert-equal"]) == 0
    said = capsys.readouterr().out
    assert "equal to the last bit over 100 common steps" in said and "seed: None | 2" in said
    shorter = write_run(tmp_path / "c", LOSSES[:50])
    assert main(["compare", str(first), str(shorter), "--assert-equal"]) == 7


def test_the_first_difference_is_named_and_a_tolerance_is_relative(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", LOSSES)
    other = [*LOSSES[:56], LOSSES[56] * (1 + 1e-7), *LOSSES[57:80], LOSSES[80] * 1.01, *LOSSES[81:]]
    write_run(tmp_path / "b", other)
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert main([*words, "--json", "--assert-equal"]) == 7
    found = json.loads(capsys.readouterr().out)
    assert (found["difference"]["step"], found["difference"]["field"]) == (57, "lm_loss")
    assert found["difference"]["relative"] == pytest.approx(1e-7, rel=1e-3)
    assert main([*words, "--tolerance", "1e-6"]) == 0
    assert "first difference: step 81, lm_loss" in capsys.readouterr().out
    assert main([*words, "--tolerance", "0.02", "--assert-equal"]) == 0


def test_runs_with_other_batches_stand_beside_each_other_at_equal_tokens(tmp_path: Path) -> None:
    write_run(tmp_path / "a", LOSSES)
    write_run(tmp_path / "b", LOSSES[:50], tokens_per_step=2000)
    found = compare(read_history(tmp_path / "a"), read_history(tmp_path / "b"))
    assert found.difference is not None and found.difference.field == "consumed_tokens"
    assert [row.tokens for row in found.rows] == list(range(10_000, 100_001, 10_000))
    assert found.rows[4].first == pytest.approx((LOSSES[48] + LOSSES[49]) / 2)
    # After 100,000 tokens a has done steps 99 and 100 (mean of 2 %), b step 50 (2 % of 50 steps are one).
    assert found.rows[-1].first == pytest.approx((LOSSES[98] + LOSSES[99]) / 2)
    assert found.rows[-1].second == pytest.approx(LOSSES[49])


def test_the_picture_appears_complete_and_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", LOSSES)
    write_run(tmp_path / "b", LOSSES[:60])
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both.svg")]
    assert main(words) == 0
    assert (tmp_path / "both.svg").read_text().count("training loss") >= 1
    assert main(words) == 2 and "exists" in capsys.readouterr().err
    assert main([*words[:-1], "losses.gif"]) == 2
    assert not list(tmp_path.glob("*.tmp"))
