"""Mistakes that would stop a job of 1,024 GPUs are found on a CPU in a fraction of a second: one message, exit status 2.

What layouts and models do not fit is in test_layout.py.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.support.runs import RECIPES

RECIPE = RECIPES / "pretrain" / "llama_1.1b_meap.yaml"
LAYOUT = "tensor_model_parallel_size=2 pipeline_model_parallel_size=4 micro_batch_size=1 split=50,50,0".split()


def nothing(folder: Path) -> None:
    """Leave the data as it is."""


def truncate(folder: Path) -> None:
    path = folder / "data.bin"
    path.write_bytes(path.read_bytes()[:-2])


def put_index_of_other_data(folder: Path) -> None:
    shutil.copy(folder / "other.idx", folder / "data.idx")


def put_sidecar_of_other_data(folder: Path) -> None:
    shutil.copy(folder / "other.meap.json", folder / "data.meap.json")


def remove(folder: Path) -> None:
    (folder / "data.bin").unlink()


def lose_a_checkpoint(folder: Path) -> None:
    (folder / "lost").mkdir()
    (folder / "lost" / "latest_checkpointed_iteration.txt").write_text("100")


MISTAKES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "truncated data": (truncate, [], "data.bin has"),
    "stale index": (put_index_of_other_data, [], "data.idx is stale"),
    "sidecar of another tokenizer": (put_sidecar_of_other_data, [], "its sidecar says"),
    "missing data": (remove, [], "data.bin does not exist"),
    "a blend of two tokenizers": (nothing, ["data_path=[1, {0}/data, 1, {0}/other]"], "another tokenizer"),
    "a tokenizer larger than the table": (
        nothing,
        ["tokenizer_type=NullTokenizer", "vocab_size=64", "make_vocab_size_divisible_by=32"],
        "the embedding has 64 rows",
    ),
    "a missing tokenizer": (
        nothing,
        ["tokenizer_type=HuggingFaceTokenizer", "tokenizer_model={0}/nowhere", "vocab_size=512"],
        "is not a file or folder here",
    ),
    "a vocabulary that TP does not divide": (nothing, ["padded_vocab_size=32001"], "padded_vocab_size=32001"),
    "processes that TP x PP does not divide": (nothing, ["--world-size=1022"], "cannot be cut into copies"),
    "a batch that DP does not divide": (nothing, ["global_batch_size=100"], "global_batch_size=100 is not divisible"),
    "shapes that FP8 cannot take": (
        nothing,
        ["precision=mxfp8", "ffn_hidden_size=5648"],
        "multiple of 32 on each rank",
    ),
    "a save folder that cannot be written": (nothing, ["save=/proc/nowhere/run"], "cannot be written"),
    "a load folder without a checkpoint": (nothing, ["load={0}"], "silently begin with random weights"),
    "a lost checkpoint": (lose_a_checkpoint, ["load={0}/lost"], "iter_0000100 does not exist"),
    "a pretrained model that is not there": (nothing, ["pretrained_checkpoint={0}/nowhere"], "holds no checkpoint"),
    "a rank that the job does not have": (nothing, ["--ranks=0,1024"], "the job has ranks 0 to 1,023"),
}


@pytest.fixture
def folder(corpora: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpora, tmp_path / "corpora")
    return tmp_path / "corpora"


def rehearse(folder: Path, *more: str) -> int:
    settings = [*LAYOUT, f"data_path={folder / 'data'}", f"save={folder / 'run'}", "--world-size=1024"]
    return main(["rehearse", str(RECIPE), *settings, *(word.format(folder) for word in more)])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_named_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    plant, settings, message = MISTAKES[mistake]
    plant(folder)
    before = sorted(folder.rglob("*"))
    assert rehearse(folder, *settings) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("meap: error: ") and said.count("meap: error: ") == 1 and "Traceback" not in said
    assert sorted(folder.rglob("*")) == before


def test_several_mistakes_are_named_in_one_message(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(folder)
    assert rehearse(folder, "num_layers=23", "save=/proc/nowhere/run", "load={0}") == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "meap: error: 4 problems would stop this job of 1,024 processes:\n  1. override num_layers=23"
    )
    assert [line[:5] for line in said.splitlines()[1:] if "fix:" not in line] == ["  1. ", "  2. ", "  3. ", "  4. "]


def test_none_of_these_needs_megatron(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "megatron", None)
    assert rehearse(folder, "num_layers=23", "load={0}") == 2
