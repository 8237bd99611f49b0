"""A sweep file becomes runs; a run that is finished, half done or of other settings is told apart."""

import json
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from meap_megatron.launch import recipe as recipes
from meap_megatron.launch.flags import read_flags
from meap_megatron.sweep import plan
from meap_megatron.sweep.run import slurm_command
from tests.support.runs import ROOT

SWEEPS = sorted((ROOT / "examples" / "sweeps").glob("*.yaml"))
TEXT = """
recipe: recipe.yaml
save: runs/s
settings: {lr: 0.1, train_iters: 9}
arms:
  ntp: {meap_mask_ratio: 0.0}
  "0.15": {meap_mask_ratio: 0.15, lr: 0.2}
"""


def write(tmp_path: Path, text: str = TEXT) -> Path:
    (tmp_path / "recipe.yaml").write_text("optimizer: {train_iters: 20, lr: 0.3}\nobjective: {meap_mask_ratio: 0.5}\n")
    (tmp_path / "sweep.yaml").write_text(text)
    return tmp_path / "sweep.yaml"


def test_an_arm_is_the_recipe_with_the_words_of_sweep_arm_and_command_line_in_this_order(tmp_path: Path) -> None:
    sweep = plan.load(write(tmp_path), ["train_iters=7"])
    assert [arm.name for arm in sweep.arms] == ["ntp", "0.15"]
    assert sweep.arms[1].save == Path("runs/s/0.15")
    settings = recipes.load(sweep.recipe, sweep.arms[1].overrides)
    assert [settings.get(key) for key in ("meap_mask_ratio", "lr", "train_iters", "save")] == [
        0.15,
        0.2,
        7,
        "runs/s/0.15",
    ]
    assert recipes.load(sweep.recipe, sweep.arms[0].overrides).get("lr") == 0.1


def test_save_on_the_command_line_moves_all_arms(tmp_path: Path) -> None:
    sweep = plan.load(write(tmp_path), ["save=elsewhere"])
    assert [arm.save for arm in sweep.arms] == [Path("elsewhere/ntp"), Path("elsewhere/0.15")]
    assert sweep.arms[0].overrides[-1] == "save=elsewhere/ntp"


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ([], (0, False)),
        ([{"event": "start", "step": 0}, {"event": "step", "step": 6}], (6, False)),
        ([{"event": "start", "step": 0}, {"event": "step", "step": 9}], (9, False)),  # killed before its checkpoint
        ([{"event": "start", "step": 0}, {"event": "end", "step": 6}], (6, True)),  # stopped by a signal
        ([{"event": "start", "step": 0}, {"event": "end", "step": 9}], (9, True)),
    ],
)
def test_a_run_is_finished_when_it_ended_by_itself_at_the_last_step(
    tmp_path: Path, records: list[dict[str, object]], state: tuple[int, bool]
) -> None:
    sweep = plan.load(write(tmp_path), [f"save={tmp_path}"])
    arm = sweep.arms[0]
    if records:
        arm.save.mkdir()
        (arm.save / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert plan.steps_done(arm.save) == state
    assert plan.is_finished(arm, recipes.load(sweep.recipe, arm.overrides)) == (state == (9, True))


def test_a_folder_with_a_run_of_other_settings_is_refused(tmp_path: Path) -> None:
    sweep = plan.load(write(tmp_path), [f"save={tmp_path}"])
    arm = sweep.arms[1]
    arm.save.mkdir()
    run = {"meap_mask_ratio": 0.1, "lr": 0.2, "data_path": ["a"]}
    (arm.save / "metrics.jsonl").write_text(json.dumps({"event": "start", "step": 0, "run": run}))
    with pytest.raises(UserError, match=r"holds a run with meap_mask_ratio=0\.1, and arm '0\.15' says 0\.15"):
        plan.is_finished(arm, recipes.load(sweep.recipe, arm.overrides))
    # The same settings in a recipe's words.
    same = ["meap_mask_ratio=0.10", "lr=2e-1", "data_path=a"]
    assert not plan.is_finished(arm, recipes.load(sweep.recipe, [*arm.overrides, *same]))
    with pytest.raises(UserError, match=r"data_path=\['a'\], and arm '0\.15' says b"):
        plan.is_finished(arm, recipes.load(sweep.recipe, [*arm.overrides, *same[:2], "data_path=b"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "a sweep is a mapping"),
        ("recipe: [", "not YAML"),
        ("recipe: r.yaml\narms: {a: {}}", "'save' is missing"),
        ("save: s\narms: {a: {}}", "'recipe' is missing"),
        ("recipe: r.yaml\nsave: s", "'arms' maps names to settings"),
        ("recipe: r.yaml\nsave: s\narms: {a/b: {}}", "arm 'a/b' must be a folder name"),
        ("recipe: r.yaml\nsave: s\narms: {a: 1}", "arm 'a' is a mapping of settings"),
        ("recipe: r.yaml\nsave: s\narm: {a: {}}", "unknown key 'arm'"),
    ],
)
def test_a_faulty_sweep_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match="sweep.yaml") as caught:
        plan.load(write(tmp_path, text), [])
    assert message in str(caught.value)


def test_slurm_gets_one_job_per_arm_with_the_words_of_meap_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = plan.load(write(tmp_path), ["layout=16"])
    assert slurm_command(sweep, sweep.arms[1], script="sft", gpus=16) == (
        f"sbatch --job-name=sweep-0.15 --nodes=2 examples/slurm/sft.sbatch {tmp_path}/recipe.yaml "
        "lr=0.2 train_iters=9 meap_mask_ratio=0.15 layout=16 save=runs/s/0.15"
    )
    for name, script in (("pretrain_ratio", "pretrain"), ("sft_ratio", "sft")):
        assert main(["sweep", str(ROOT / "examples" / "sweeps" / f"{name}.yaml"), "layout=64", "--slurm"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) in (4, 5)
        assert all(
            f"--nodes=8 examples/slurm/{script}.sbatch " in line and " save=runs/sweeps/" in line for line in lines
        )
    monkeypatch.chdir(tmp_path)  # no examples here: those of the installation
    command = slurm_command(sweep, sweep.arms[1], script="sft", gpus=16)
    assert command.startswith(f"MEAP_HOME={ROOT} sbatch ") and f" {ROOT}/examples/slurm/sft.sbatch " in command


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_arm_of_every_sweep_is_accepted_by_megatrons_flags(path: Path) -> None:
    sweep = plan.load(path, [])
    assert len(sweep.arms) >= 4
    for arm in sweep.arms:
        assert recipes.load(sweep.recipe, arm.overrides).command_line(read_flags())


def test_the_sweeps_are_the_ablations_of_the_protocol() -> None:
    def masks(name: str) -> dict[str, tuple[object, ...]]:
        sweep = plan.load(ROOT / "examples" / "sweeps" / name, [])
        keys = ("meap_mask_ratio", "meap_mask_strategy", "meap_span_length", "train_iters", "meap_epochs")
        loaded = {arm.name: recipes.load(sweep.recipe, arm.overrides) for arm in sweep.arms}
        return {arm: tuple(recipe.get(key) for key in keys) for arm, recipe in loaded.items()}

    ratios = {"ntp": 0.0, "0.05": 0.05, "0.10": 0.1, "0.15": 0.15, "0.20": 0.2}
    assert masks("pretrain_ratio.yaml") == {arm: (ratio, None, None, 190_000, None) for arm, ratio in ratios.items()}
    assert masks("pretrain_strategy.yaml") == {
        "ntp": (0.0, None, None, 4768, None),
        "random": (0.15, "random", None, 4768, None),
        "span5": (0.15, "span", 5, 4768, None),
        "span50": (0.15, "span", 50, 4768, None),
        "official51": (0.15, "official51", None, 4768, None),
    }
    assert masks("sft_ratio.yaml") == {
        "ntp": (0.0, None, None, None, 6),
        "0.05": (0.05, None, None, None, 3),
        "0.10": (0.1, None, None, None, 3),
        "0.15": (0.15, None, None, None, 3),
    }


def test_a_fault_in_the_last_arm_is_found_before_the_first_one_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, TEXT.replace("lr: 0.2", "lrr: 0.2"))
    assert main(["sweep", str(path), f"save={tmp_path / 'runs'}"]) == 2
    assert "unknown key 'lrr'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
