"""The fine-tuning experiment: its protocol, its data and its analysis."""

import json
import math
from pathlib import Path

import pytest

from experiments.finetuning import __main__ as script
from experiments.finetuning import plan, report

REGISTERED = plan.REGISTERED
PLACES = ("gold_at_0", "gold_at_4", "gold_at_9")


@pytest.mark.parametrize("registered", [plan.REGISTERED, plan.FULL], ids=lambda chosen: chosen.label)
def test_the_protocol_names_the_numbers_of_the_script(registered: plan.Plan) -> None:
    protocol = registered.protocol.read_text(encoding="utf-8")
    settings = dict(word.split("=") for word in registered.overrides)
    suites = {name: dict(zip(words[::2], words[1::2], strict=True)) for name, words in registered.suites.items()}
    for said in (
        f"rows of {registered.row:,} tokens, {settings['global_batch_size']} a step",
        f"seeds {registered.seeds[0]} to {registered.seeds[-1]}",
        f"{suites['mdqa']['--limit']} questions",
        f"{suites['kv']['--limit']} questions at three places",
        f"at least +{plan.SMALLEST_DIFFERENCE}".replace("0.", "."),
        f"{report.RESAMPLES:,} resamples",
        *(f"| `{arm}` | {words[1].split('=')[1]} |" for arm, words in registered.arms.items()),
    ):
        assert said.lower() in protocol.lower(), said
    assert math.isclose(float(settings["lr"]), 1e-4) and "1e-4" in protocol


def test_a_score_says_how_many_steps_were_made_and_by_which_device(tmp_path: Path) -> None:
    steps = [{"event": "step", "step": step, "time": 1.0} for step in (1, 2, 2, 3)]
    start = {"event": "start", "step": 0, "run": {"device": "NVIDIA H200"}, "time": 1.0}
    lines = [start | {"run": {"device": "cpu"}}, start, *steps]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert script.trained(tmp_path) == (3, "NVIDIA H200")


def scores(arm: str, seed: int, right: int) -> dict:
    outcomes = [1.0] * right + [0.0] * (300 - right)
    headlines = {"kv": {"by_position": {"75": {"50": seed / 10}}}, "needle": {"by_length": {"4096": 0.5}}}
    return {"arm": arm, "seed": seed, "mdqa": dict.fromkeys(PLACES, outcomes), "headlines": headlines}


def models(lift: int) -> list[dict]:
    arms = [("untouched", 0, 60), *((arm, seed, 90 + seed) for arm in ("ntp4", "ntp2") for seed in (1, 2, 3))]
    return [scores(*arm) for arm in arms] + [scores("meap2", seed, 90 + lift + 2 * seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize(
    ("lift", "said"), [(30, "support"), (-30, "against"), (2, "undecided"), (-2, "no difference of interest")]
)
def test_a_verdict_needs_seeds_and_questions_to_agree(lift: int, said: str) -> None:
    result = report.analyse(REGISTERED, models(lift))
    assert result["contrasts"]["meap2 - ntp4"]["verdict"] == said
    assert result["contrasts"]["meap2 - ntp4"]["mean"] == pytest.approx((lift + 2) / 300)


WIDE = {"support": (-0.01, 0.07), "against": (-0.07, 0.01), "no difference of interest": (-0.03, 0.03)}


@pytest.mark.parametrize(("mean", "said"), [(0.03, "support"), (-0.03, "against"), (0.0, "no difference of interest")])
def test_either_interval_alone_can_leave_a_contrast_undecided(mean: float, said: str) -> None:
    narrow, wide = (mean - 0.01, mean + 0.01), WIDE[said]
    cases = [(narrow, narrow, said), (wide, narrow, "undecided"), (narrow, wide, "undecided")]
    for seeds, questions, verdict in cases:
        found = {"mean": mean, "low": seeds[0], "high": seeds[1]}
        assert report.verdict(found | {"question_low": questions[0], "question_high": questions[1]}) == verdict


def test_no_difference_is_given_before_the_last_model() -> None:
    result = report.analyse(REGISTERED, models(30)[:-1])
    assert result["contrasts"] == {} and result["missing"] == {"meap2": [3]}
    assert report.heading(result).startswith("**INCOMPLETE")


def test_the_report_draws_every_model_and_both_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}
    monkeypatch.setattr(report, "save", lambda figure, axes, path, title: drawn.update({path.name: axes}))
    result = report.analyse(REGISTERED, models(30))
    report.write_report(tmp_path, result)
    assert "**meap2 - ntp4: support; meap2 - ntp2: support**" in (tmp_path / "table.md").read_text()
    assert "| arm | key 50 of 75 | needle, 4,096 tokens |" in (tmp_path / "table.md").read_text()
    assert "| meap2 | 0.200 [-0.048, 0.448] | 0.500 [0.500, 0.500] |" in (tmp_path / "table.md").read_text()
    dots = [line.get_ydata() for line in drawn["models.png"].get_lines()]
    assert [len(y) for y in dots] == [1, 3, 3, 3] and dots[2][0] == pytest.approx(122 / 300)
    seeds, questions = (bar.get_segments()[0][:, 1] for bar in drawn["differences.png"].collections[:2])
    found = result["contrasts"]["meap2 - ntp4"]
    assert seeds == pytest.approx([found["low"], found["high"]])
    assert questions == pytest.approx([found["question_low"], found["question_high"]])


def test_inputs_that_are_not_given_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["run", "--smoke", "--out", str(tmp_path), "--model", "x"]) == 2
    assert "run needs --alpaca" in capsys.readouterr().err
    (tmp_path / "questions.json").write_text("[]\n[]\n")
    words = ["--model", "x", "--alpaca", str(tmp_path / "questions.json"), "--questions", "x"]
    assert script.main(["run", "--smoke", "--out", str(tmp_path), *words]) == 2  # before a model is imported
    assert "questions.json: Extra data" in capsys.readouterr().err
    assert script.main(["report", "--smoke", "--out", str(tmp_path)]) == 2
    assert "has no finished model" in capsys.readouterr().err


def test_outcomes_are_kept_by_question_so_that_models_can_be_paired(tmp_path: Path) -> None:
    folder = tmp_path / "meap2-seed-1"
    (folder / "evaluation").mkdir(parents=True)
    document = {"headline": {"average": {"10": 0.5}}, "tasks": [{"prompts_sha256": "a"}]}
    (folder / "evaluation" / "mdqa.json").write_text(json.dumps(document))
    lines = [{"task": "t", "metrics": {"best_subspan_em": 1.0}}, {"task": "t", "metrics": {"unfit": 1.0}}]
    (folder / "evaluation" / "mdqa.samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = script.Run(arm="meap2", seed=1, folder=folder, scores=tmp_path / "scores.json")
    found = script.read_results(one, suites={"mdqa": ()})
    assert found["mdqa"] == {"t": [1.0, 0.0]} and found["prompts"] == {"mdqa": ["a"]}
