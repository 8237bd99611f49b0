"""Data sets of the library datasets are inputs by name: local folders, saved ones, and the cache without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.corpus import hub
from tests.support.conversations import write_chat_tokenizer
from tests.support.corpus import write_byte_tokenizer

datasets = pytest.importorskip("datasets")

TEXTS = [[f"document {part} {row} é" for row in range(4)] for part in range(3)]
TALK = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "Here it is, all of it."}]
CACHED = """
import datasets, shutil, sys
from pathlib import Path
from meap_megatron.cli.main import main

folder = Path(sys.argv[1])
datasets.load_dataset(str(folder / "texts"))
shutil.move(folder / "cache" / "texts", folder / "cache" / "somebody___texts")  # as if it came from the Hub
words = ["preprocess", "text", "--workers", "1", "-t", str(folder / "tokenizer"), "-o", str(folder / "cached")]
print(main([*words, "hf:somebody/texts"]), main([*words, "hf:somebody/else", "--overwrite"]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of four texts: a data set of three shards."""
    (tmp_path / "texts").mkdir()
    for part, texts in enumerate(TEXTS):
        lines = [json.dumps({"text": text, "meta": {"n": part}}) for text in texts]
        (tmp_path / "texts" / f"part{part}.jsonl").write_text("\n".join(lines) + "\n")
    write_byte_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def preprocess(folder: Path, pattern: str, name: str, *words: str) -> int:
    tokenizer = str(folder / "tokenizer")
    return main(["preprocess", "text", pattern, "-t", tokenizer, "-o", str(folder / name), "--workers", "1", *words])


def test_a_streamed_folder_gives_the_bytes_that_its_files_give(folder: Path) -> None:
    assert preprocess(folder, f"hf:{folder}/texts", "streamed") == 0
    assert preprocess(folder, str(folder / "texts"), "read") == 0
    for suffix in (".bin", ".idx"):
        assert (folder / f"streamed{suffix}").read_bytes() == (folder / f"read{suffix}").read_bytes()


def test_what_save_to_disk_wrote_is_read_by_its_split(folder: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS[0]})
    datasets.DatasetDict({"train": rows, "other": rows.select([0])}).save_to_disk(folder / "saved")
    assert preprocess(folder, f"hf:{folder}/saved::other", "other") == 0
    assert json.loads((folder / "other.meap.json").read_text())["num_documents"] == 1
    assert preprocess(folder, f"hf:{folder}/saved", "train") == 0
    assert json.loads((folder / "train.meap.json").read_text())["num_documents"] == 4


def test_without_a_network_the_cache_of_the_library_is_read(folder: Path) -> None:
    environ = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", CACHED, str(folder)], env=environ, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["0 2"], done.stderr
    assert json.loads((folder / "cached.meap.json").read_text())["num_documents"] == 12
    assert "hf:somebody/else" in done.stderr and "without a network" in done.stderr and "Traceback" not in done.stderr


def test_conversations_of_a_data_set_are_fine_tuning_data(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"messages": [TALK] * 3}).save_to_disk(tmp_path / "talk")
    write_chat_tokenizer(tmp_path / "tokenizer")
    words = ["preprocess", "sft", f"hf:{tmp_path}/talk", "-t", str(tmp_path / "tokenizer"), "--template", "alpaca"]
    assert main([*words, "--max-length", "129", "-o", str(tmp_path / "data"), "--workers", "1"]) == 0
    assert json.loads((tmp_path / "data.meap.json").read_text())["num_documents"] == 3


def test_a_data_set_that_changed_after_the_start_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, version = hub.look_up(f"hf:{folder}/texts")
    with pytest.raises(Exception, match="changed since the run began"):
        list(hub.rows_of(f"hf:{folder}/texts", 0, version=version + 1))


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("hf:", "is not of the form"),
        ("hf:{folder}/texts:default:nowhere", "nowhere"),
        ("hf:{folder}/empty", "cannot be read"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], pattern: str, message: str
) -> None:
    (folder / "empty").mkdir()
    assert preprocess(folder, pattern.format(folder=folder), "out") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not list(folder.glob("out*"))


def test_a_row_without_text_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preprocess(folder, f"hf:{folder}/texts", "out", "--json-key", "body") == 2
    assert "row 1 of shard 0: no key 'body', only ['meta', 'text']" in capsys.readouterr().err
