"""The experiment on repeated data: its protocol, its arms, its analysis, and the whole chain with a tiny model."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import runs
from experiments.repeated import __main__ as script
from experiments.repeated import data, plan, report
from meap_megatron.launch import recipe as recipes
from meap_megatron.launch.flags import read_flags
from tests.support.runs import meap, start

PROTOCOL = plan.PROTOCOL.read_text(encoding="utf-8")
REGISTERED = plan.REGISTERED


def main_runs() -> list[plan.Run]:
    return plan.main_runs(REGISTERED, cell=(0.1, 1.0), out=Path("out"), record=Path("record"))


def test_the_protocol_names_the_numbers_of_recipe_and_script() -> None:
    recipe = recipes.load(plan.RECIPE)
    names = (
        "hidden_size num_layers num_attention_heads ffn_hidden_size train_iters seq_length global_batch_size".split()
    )
    width, layers, heads, ffn, steps, length, batch = (recipe.get(name) for name in names)
    parameters = REGISTERED.vocab_size * width + layers * (4 * width**2 + 3 * width * ffn + 2 * width) + width
    for said in (
        f"{parameters:,} parameters ({layers} layers, width {width}, FFN {ffn}, {heads} heads",
        f"sequences of {length} tokens, {batch} a step ({length * batch:,} tokens)",
        f"{steps} steps: {steps * length * batch:,} tokens",
        f"every {recipe.get('eval_interval')} steps ({steps // recipe.get('eval_interval')} looks",
        f"first {REGISTERED.module_bytes:,} bytes",
        f"BPE of {REGISTERED.vocab_size:,} pieces",
        f"seeds 1 to {REGISTERED.seeds[-1]}, {len(main_runs())} runs",
        f"seed {plan.GRID_SEED}",
        f"at most -{plan.SMALLEST_DIFFERENCE} bits".replace("0.", "."),
    ):
        assert said in PROTOCOL, said
    for cell in plan.GRID[1:]:
        assert "({:g}, {:g})".format(*cell).replace("0.", ".") in PROTOCOL
    for arm, words in plan.ARMS.items():
        settings = " ".join(word for word in words if word != "meap_mask_ratio=0.0")
        assert f"| `{arm}` |" in PROTOCOL and settings in PROTOCOL


def test_arms_of_a_seed_differ_in_what_the_protocol_says_only() -> None:
    one_seed = [run for run in main_runs() if run.seed == 2]
    loaded = {run.arm: recipes.load(plan.RECIPE, [*run.words, f"seed={run.seed}"]) for run in one_seed}
    assert list(loaded) == list(plan.ARMS)
    assert loaded["range50"].get("meap_mask_ratio") == loaded["clean_masked"].get("meap_mask_ratio") == "0:0.5"
    assert [run.seed for run in main_runs()][:7] == [1] * 7
    changed = {
        arm: {
            key for key in {**recipe.settings, **loaded["ntp"].settings} if recipe.get(key) != loaded["ntp"].get(key)
        }
        for arm, recipe in loaded.items()
        if recipe.command_line(read_flags())
    }
    assert changed == {
        "ntp": set(),
        "tuned": {"hidden_dropout", "weight_decay"},
        "mask15": {"meap_mask_ratio"},
        "random15": {"meap_mask_ratio", "meap_corruption"},
        "range50": {"meap_mask_ratio"},
        "clean_masked": {"meap_mask_ratio", "meap_pair", "meap_pair_weight"},
        "mask15_tuned": {"meap_mask_ratio", "hidden_dropout", "weight_decay"},
    }


def scores(arm: str, seed: int, bits: list[float]) -> dict:
    looks = [[50 * (look + 1), value] for look, value in enumerate(bits)]
    return {"arm": arm, "seed": seed, "bits_per_byte": looks, "mask_fraction": 0.0}


def test_four_contrasts_are_judged_together_and_none_before_the_last_run() -> None:
    lift = {"ntp": 0.3, "tuned": 0.0, "mask15": 0.001, "random15": 0.1, "range50": 0.1}
    noise = (0.0, 0.002, -0.001, 0.001)
    found = []
    for seed in REGISTERED.seeds:
        for arm in plan.ARMS:
            change = noise[(seed + len(arm)) % 4]
            bits = [2.5, 2.0 + lift.get(arm, 0.1) / 3 + change, 2.0 + lift.get(arm, 0.1) + change]
            found.append(scores(arm, seed, bits))
    early = report.analyse(REGISTERED, found[:-1], grid=[], cell=(0.1, 1.0))
    assert early["contrasts"] == {} and early["primary"] == {} and early["missing"] == {"mask15_tuned": [4]}
    result = report.analyse(REGISTERED, found, grid=[], cell=(0.1, 1.0))
    assert {name: test["verdict"] for name, test in result["primary"].items()} == {
        "mask15 - ntp, best": "helps",
        "mask15 - ntp, end": "helps",
        "mask15 - tuned, best": "no difference of interest",
        "mask15 - tuned, end": "no difference of interest",
    }
    assert len(result["contrasts"]) == 22
    assert result["summary"]["ntp"]["best_step"] == [100] * 4


@pytest.mark.parametrize(
    ("mean", "low", "high", "p", "said"),
    [
        (-0.05, -0.08, -0.02, 0.01, "helps"),
        (0.05, 0.02, 0.08, 0.01, "hurts"),
        (-0.05, -0.12, 0.02, 0.20, "undecided"),
        (-0.05, -0.09, -0.01, 0.06, "undecided"),
        (-0.005, -0.009, -0.001, 0.01, "no difference of interest"),
    ],
)
def test_the_verdict_follows_the_table_of_the_protocol(mean, low, high, p, said) -> None:
    assert report.verdict({"mean": mean, "low": low, "high": high}, p=p) == said


def test_a_beginning_consists_of_whole_lines_and_whole_characters() -> None:
    assert data.beginning("ab\ncd\nef", 7) == "ab\ncd\n"
    assert data.beginning("äb\ncd\n", 6) == "äb\n"
    assert data.beginning("ab\n", 3) == "ab\n"


@pytest.mark.slow
def test_the_chain_trains_the_grid_first_and_calls_a_smoke_run_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def launch(command: list[str], **rest: object) -> object:
        started.append(next(word for word in command if word.startswith("save=")))
        return start(*command[3:], MEAP_THREADS="1")

    run = lambda words, **rest: meap(*words[3:], check=False)  # noqa: E731
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(Popen=launch, run=run, DEVNULL=None))
    monkeypatch.setattr(runs, "git", lambda *words: "abc\n")
    words = ["--smoke", "--out", str(tmp_path)]
    assert script.main(["report", *words]) == 2
    assert "no complete grid yet" in capsys.readouterr().err
    assert script.main(["run", *words]) == 0
    names = [Path(word).parent.name for word in started]
    assert names == ["dropout-0.1-decay-1", "ntp-seed-1", "tuned-seed-1", "mask15-seed-1"]
    record = tmp_path / "record"
    found = {arm: json.loads((record / "scores" / f"{arm}-seed-1.json").read_text()) for arm in plan.SMOKE.arms}
    assert [step for step, _ in found["ntp"]["bits_per_byte"]] == [4, 8]
    assert found["mask15"]["mask_fraction"] == pytest.approx(19 / 128)
    assert found["tuned"]["words"][1:] == ["hidden_dropout=0.1", "weight_decay=1.0"]
    assert script.main(["run", *words]) == 0 and len(started) == 4
    assert script.main(["report", *words]) == 0
    assert (record / "table.md").read_text().startswith("**SMOKE RUN")
    assert (record / "curves.png").stat().st_size > 5000
