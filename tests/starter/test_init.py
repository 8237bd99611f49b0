"""`meap init` tells what is in a folder and writes a recipe and a script that run as they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from meap_megatron.cli.main import main
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.recipe import load
from tests.support.conversations import docstring_rows, write_alpaca, write_chat_tokenizer
from tests.support.corpus import library_texts, write_byte_tokenizer
from tests.support.hf_models import write_model
from tests.support.runs import ROOT
from tests.support.warm import server

TALK = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "Here it is."}]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meap_megatron.starter.found.devices", lambda: 0)


def script_of(folder: Path, out: str = "meap") -> str:
    return (folder / out / "run.sh").read_text()


def write_texts(folder: Path, number: int) -> None:
    folder.mkdir(parents=True)
    for index, text in enumerate(library_texts(4_000_000)[:number]):
        (folder / f"{index}.txt").write_text(text)


@pytest.mark.slow
def test_text_alone_becomes_a_small_model_and_the_script_runs_twice(tmp_path: Path) -> None:
    write_texts(tmp_path / "my texts", 12)
    assert main(["init", str(tmp_path)]) == 0
    recipe = tmp_path / "meap" / "recipe.yaml"
    small = (
        recipe.read_text().replace("num_layers: 4", "num_layers: 2").replace("save_interval:", "save_interval: 2 #")
    )
    recipe.write_text(small.replace("train_iters:", "train_iters: 2 #").replace("seq_length: 256", "seq_length: 64"))
    program = tmp_path / "bin" / "meap"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.support.warm "{server()[1:]}" "$@"\n')
    program.chmod(0o755)
    environ = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = subprocess.run(
            ["bash", str(tmp_path / "meap" / "run.sh")],
            env=environ,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert "complete at step 2 of 2" in done.stdout + done.stderr
    assert (tmp_path / "meap" / "hf" / "config.json").is_file() and "meap generate meap/run" in done.stdout


@pytest.mark.parametrize("kind", ["conversations", "text"])
def test_a_model_and_its_data_become_fine_tuning_or_continued_training(tmp_path: Path, kind: str) -> None:
    write_chat_tokenizer(write_model(tmp_path / "models" / "mine", "llama2", vocab_size=1024, num_hidden_layers=2))
    if kind == "text":
        write_texts(tmp_path / "texts", 2)
    else:
        (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
        (tmp_path / "beside.txt").write_text("left out")
    assert main(["init", str(tmp_path)]) == 0
    text = script_of(tmp_path)
    assert "meap convert import models/mine meap/model --add-mask-token" in text
    preprocess = {"conversations": "sft talk.jsonl --max-length 129", "text": "text texts"}[kind]
    assert f"meap preprocess {preprocess} --tokenizer meap/model/tokenizer" in text
    recipe = yaml.safe_load((tmp_path / "meap" / "recipe.yaml").read_text())
    assert recipe["extends"] == {"conversations": "model/sft_meap.yaml", "text": "model/continue.yaml"}[kind]
    if kind == "conversations":
        source, model = str(tmp_path / "models" / "mine"), str(tmp_path / "meap" / "model")
        assert main(["convert", "import", source, model, "--add-mask-token", "--skip-verification"]) == 0
        words = load(tmp_path / "meap" / "recipe.yaml", []).command_line(read_flags())
        assert f"--pretrained-checkpoint={model}" in words and "--meap-sft" in words and "--train-iters=20" in words


@pytest.mark.parametrize("gpus", [0, 8])
def test_what_is_written_is_a_recipe_for_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    monkeypatch.setattr("meap_megatron.starter.found.devices", lambda: gpus)
    (tmp_path / "data.jsonl").write_text(json.dumps({"raw_content": "some text"}) + "\n")
    write_byte_tokenizer(tmp_path / "tokenizer")
    assert main(["init", str(tmp_path), "--out", "first/try"]) == 0
    recipe = tmp_path / "first" / "try" / "recipe.yaml"
    settings = load(recipe, []).resolved()
    load(recipe, []).command_line(read_flags())
    assert settings["hidden_size"].value == (768 if gpus else 128)
    assert settings["nproc"].value == 0 if gpus else "nproc" not in settings
    text = script_of(tmp_path, "first/try")
    assert "/../..\n" in text and "tokenizer train" not in text
    assert "meap preprocess text data.jsonl --json-key raw_content --tokenizer tokenizer" in text


def test_a_script_on_a_slurm_cluster_names_the_batch_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "some text"}) + "\n")
    assert main(["init", str(tmp_path)]) == 0
    assert f"sbatch {ROOT}/examples/slurm/pretrain.sbatch meap/recipe.yaml save=meap/run" in script_of(tmp_path)


def test_the_examples_are_copied_once_and_a_recipe_of_them_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--examples", str(tmp_path)]) == 0
    assert f"meap train {tmp_path}/examples/recipes/tiny_cpu_meap.yaml" in capsys.readouterr().out
    copied = tmp_path / "examples"
    names = {path.relative_to(copied) for path in copied.rglob("*") if path.is_file()}
    ours = ROOT / "examples"
    assert names == {path.relative_to(ours) for path in ours.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    recipe = copied / "recipes" / "sft" / "llama3_8b_meap.yaml"
    assert load(recipe, ["layout=8"]).get("tensor_model_parallel_size") == 2
    recipe.write_text("mine")
    assert main(["init", "--examples", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err and recipe.read_text() == "mine"


@pytest.mark.parametrize(
    "files, words, message",
    [
        ({}, [], "there is no data"),
        ({"picture.png": "x", "README.md": "x", "requirements.txt": "torch"}, [], "there is no data"),
        ({"a.jsonl": json.dumps({"messages": TALK})}, [], "there is no model"),
        ({"a.jsonl": '{"text": '}, [], "there is no data"),
        ({"a/tokenizer.json": "{}", "b/tokenizer.json": "{}", "t.txt": "x"}, [], "found 2 tokenizers"),
        ({"a/config.json": "{}", "a/model.safetensors": "", "b.gguf": "", "t.txt": "x"}, [], "found 2 models"),
        ({"a/config.json": "[]", "a/model.safetensors": "", "t.txt": "x"}, [], "cannot be read"),
        ({"t.txt": "x"}, ["--data", "nowhere"], "nowhere does not exist"),
        ({"t.txt": "x"}, ["--out", "../x"], "is not below"),
        ({"t.txt": "x", "meap/run.sh": "mine"}, [], "exists already"),
        ({"t.txt": "x", "meap": "a file"}, [], "meap"),
    ],
)
def test_what_cannot_be_started_from_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], words: list[str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", str(tmp_path), *words]) in (1, 2)
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_tokenizer_of_a_dataset_made_before_is_not_a_second_choice(tmp_path: Path) -> None:
    for name in ("own/tokenizer.json", "data/mine.tokenizer/tokenizer.json", "data/mine.meap.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "t.txt").write_text("x")
    assert main(["init", str(tmp_path)]) == 0
    assert "--tokenizer own " in script_of(tmp_path)


def test_a_tokenizer_is_trained_on_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_texts(tmp_path / "texts", 3)
    write_alpaca(tmp_path / "rows.json", docstring_rows(3))
    out = str(tmp_path / "tokenizer")
    assert main(["tokenizer", "train", str(tmp_path / "texts"), "--vocab-size", "300", "--output", out]) == 0
    assert "300 pieces" in capsys.readouterr().out
    wrong = ["tokenizer", "train", str(tmp_path / "rows.json"), "--output", str(tmp_path / "other")]
    assert main(wrong) == 2 and "rows.json:2: no key 'text'" in capsys.readouterr().err
    assert main(["tokenizer", "train", str(tmp_path / "texts"), "--output", out]) == 2
    assert main(["tokenizer", "train", str(tmp_path / "texts"), "--vocab-size", "200", "--output", out]) == 2
    words = ["preprocess", "text", str(tmp_path / "texts"), "--tokenizer", out, "--workers", "1"]
    assert main([*words, "--output", str(tmp_path / "data")]) == 0
