"""`meap plan` as a user runs it: what it prints, what it writes, and that the files do what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from meap_megatron.cli.main import main
from meap_megatron.planning.job import layout_of, read
from meap_megatron.planning.layout import PlannedLayout
from tests.support.runs import RECIPES

RECIPE = str(RECIPES / "sft/llama3_8b_meap.yaml")


def plan(*words: str) -> int:
    return main(["plan", *words])


def test_the_report_has_units_the_choice_and_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(RECIPE, "--gpus", "8", "--gpu", "H100", "--tokens", "40M") == 0
    said = capsys.readouterr().out
    assert "8 x H100 SXM 80 GB" in said and "40 M tokens in all" in said
    rows = [line.split() for line in said.splitlines() if line.startswith((">", " ", "r "))]
    header = next(row for row in rows if row[:2] == ["TP", "PP"])
    assert header[-5:] == ["s/step", "MFU", "tokens/day", "GPU-h", "days"]
    assert len([row for row in rows if row[-1].replace(".", "").isdecimal()]) >= 8
    assert "Chosen: TP 2, PP 1, CP 1, DP 4" in said and "stay free" in said
    assert "memory per GPU: parameters" in said and "seconds per step: matrices" in said
    assert "no run of this project was timed on a GPU yet" in " ".join(said.split())
    assert max(map(len, said.splitlines())) < 160


def test_json_says_the_same_in_bytes_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(RECIPE, "--gpus", "8", "--gpu", "h100", "--memory", "40", "--rows", "3", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    best = said["best"]
    assert best["memory_bytes"]["total"] <= said["memory_bytes_per_gpu"] == 40e9
    parts = [value for name, value in best["memory_bytes"].items() if name not in ("stage", "total")]
    assert sum(parts) == pytest.approx(best["memory_bytes"]["total"])
    assert sum(best["seconds"].values()) == pytest.approx(best["seconds_per_step"])
    assert len(said["layouts"]) <= 3 and said["recipe_layout"]["layout"]["tensor"] == 2
    assert said["tokens"] is None and best["days"] is None and best["tokens_per_day"] > 1e9


def test_a_search_is_quick_and_imports_neither_torch_nor_megatron() -> None:
    recipe = RECIPES / "pretrain/llama_1.1b_meap.yaml"
    plan(str(recipe), "--gpus", "8", "--gpu", "h100")  # Megatron's flags are read once per installation
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['megatron'] = None\n"
        "from meap_megatron.cli.main import main\n"
        f"sys.exit(main(['plan', {str(recipe)!r}, '--gpus', '256', '--gpu', 'h100']))"
    )
    begun = os.times().children_user
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert os.times().children_user - begun < 3.0  # 0.7 s on an idle core


def test_what_is_written_is_a_recipe_with_the_layout_and_its_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my plan"
    words = (RECIPE, "seed=7", "--gpus", "16", "--gpu", "a100", "--memory", "30", "--out", str(out))
    assert plan(*words) == 0
    best = json.loads(json.dumps(chosen(capsys, *words[:-2])))["best"]
    written = read(out / "plan.yaml")
    assert layout_of(written.settings, gpus=16, global_batch=24) == PlannedLayout(**best["layout"])
    assert written.settings["meap_mask_ratio"] == 0.10 and written.settings["data_path"] == ["data/alpaca"]

    script = out / "plan.sbatch"
    checked = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n#SBATCH --gpus-per-node=8\n" in script.read_text()

    before = script.read_text()
    assert plan(*words) == 2
    assert "exists already\n  fix: choose another --out, or say --overwrite" in capsys.readouterr().err
    assert script.read_text() == before
    script.write_text("old")
    assert plan(*words, "--overwrite") == 0 and script.read_text() == before


def chosen(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    capsys.readouterr()
    assert plan(*words, "--json") == 0
    said: dict[str, object] = json.loads(capsys.readouterr().out)
    return said


def test_the_script_starts_training_with_the_plan_and_the_words_behind_it(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"srun": 'printf "%s\\n" "$@" >words; exit 2', "scontrol": "echo node7", "meap": "true"}.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    recipe = RECIPES / "pretrain/llama_0.1b_ntp.yaml"
    assert plan(str(recipe), "lr=1e-4", "--gpus", "4", "--gpu", "b200", "--out", str(tmp_path / "a b")) == 0
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node7",
        "SLURM_SUBMIT_DIR": str(tmp_path),  # no examples there: those of the installation
        "SLURM_JOB_END_TIME": "0",
    }
    subprocess.run(
        ["bash", str(tmp_path / "a b" / "plan.sbatch"), "save=elsewhere"],
        cwd=tmp_path,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "MEAP_VENV": "", **slurm},
        capture_output=True,
        timeout=60,
        check=False,
    )
    words = (tmp_path / "words").read_text().splitlines()
    assert words[1:] == [
        *("meap", "train", f"{tmp_path}/a b/plan.yaml", "lr=1e-4", "save=runs/llama_0.1b_ntp", "save=elsewhere")
    ]


def test_a_layout_of_the_recipe_is_taken_back(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        f"extends: {RECIPES / 'tiny_cpu_ntp.yaml'}\n"
        "run: {recompute_granularity: full, recompute_method: uniform, recompute_num_layers: 1, vocab_size: 500}\n"
        "device: cpu\n"
    )
    assert plan(str(recipe), "--gpus", "1", "--gpu", "h100", "--out", str(tmp_path / "out")) == 0
    settings = yaml.safe_load((tmp_path / "out" / "plan.yaml").read_text())["plan"]
    assert settings["recompute_granularity"] is None
    assert (settings["precision"], settings["device"]) == ("bf16", "cuda")
    assert "recompute_granularity" not in read(tmp_path / "out" / "plan.yaml").settings


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--gpus", "8", "--gpu", "v100"), "--gpu v100: there are figures for a100, h100, h200, b200 only"),
        (("--gpus", "8", "--gpu", "h100", "--memory", "0"), "--memory 0 must be more than 0"),
        (("--gpus", "8", "--gpu", "h100", "--tokens", "many"), "--tokens 'many': expected a number of tokens"),
        (("--gpus", "8", "--gpu", "h100", "layout=8"), "layout=8: a plan chooses this itself"),
        (("--gpus", "8", "--gpu", "h100", "micro-batch-size=2"), "micro-batch-size=2: a plan chooses this itself"),
        (("--gpus", "8", "--gpu", "h100", "--memory", "3"), "no layout fits: the smallest needs"),
        (("--gpus", "8", "--gpu", "h100", "micro_batch_sise=2"), "did you mean 'micro_batch_size'?"),
    ],
)
def test_wrong_input_is_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str) -> None:
    assert plan(RECIPE, *words) == 2
    assert says in capsys.readouterr().err
