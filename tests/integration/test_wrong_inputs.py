"""Wrong inputs to training: each gives one clear message, exit status 2, no traceback, and nothing half-written.

Wrong settings are in tests/launch/test_wrong_settings.py, what the corpus verbs refuse in tests/cli/test_corpus_verbs.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl
from tests.support.runs import TINY, meap, train

MEAP = "tiny_cpu_meap.yaml"


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wrong")
    texts = library_texts(60_000)
    write_jsonl(root / "corpus.jsonl", texts)
    for name, size in (("data", 300), ("other", 320)):
        write_byte_tokenizer(root / f"{name}_tokenizer", vocab_size=size, texts=texts)
        meap(
            "preprocess",
            "text",
            root / "corpus.jsonl",
            "--tokenizer",
            root / f"{name}_tokenizer",
            "--output",
            root / name,
        )
    return root


@pytest.fixture
def folder(corpora: Path, tmp_path: Path) -> Path:
    shutil.copytree(corpora, tmp_path / "corpora")
    return tmp_path / "corpora"


def truncate_bin(folder: Path) -> None:
    path = folder / "data.bin"
    path.write_bytes(path.read_bytes()[:-2])


def break_magic(folder: Path) -> None:
    path = folder / "data.idx"
    path.write_bytes(b"NOTINDEX" + path.read_bytes()[8:])


def break_sidecar(folder: Path) -> None:
    (folder / "data.meap.json").write_text("{not json")


def drop_sidecar(folder: Path) -> None:
    (folder / "data.meap.json").unlink()


def newer_sidecar(folder: Path) -> None:
    path = folder / "data.meap.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))


def nothing(folder: Path) -> None:
    """Leave the data as it is."""


LIGHT: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "truncated bin": (truncate_bin, [], "data.bin"),
    "wrong magic": (break_magic, [], "data.idx"),
    "sidecar is not JSON": (break_sidecar, [], "data.meap.json"),
    "sidecar missing": (drop_sidecar, [], "--write-sidecar"),
    "sidecar of a newer version": (newer_sidecar, [], "99"),
    "data missing": (nothing, ["data_path={0}/nowhere"], "nowhere"),
    "two tokenizers in one blend": (nothing, ["data_path=[1, {0}/data, 1, {0}/other]"], "another tokenizer"),
    "unknown key": (nothing, ["mask_ratio=0.1"], "did you mean 'meap_mask_ratio'"),
    "a folder that cannot be written": (nothing, ["save=/proc/nowhere"], "set save to a folder that can be written"),
    "a step count that is no number": (nothing, ["train_iters=many"], "must be a whole number"),
    "unknown strategy": (nothing, ["meap_mask_strategy=some"], "random, span, official51"),
    "unknown device": (nothing, ["device=tpu"], "not one of auto, cpu, cuda"),
    "a GPU that is not there": (nothing, ["device=cuda"], "no GPU"),
}


@pytest.mark.parametrize("case", LIGHT)
def test_a_fault_is_found_before_anything_is_written(folder: Path, tmp_path: Path, case: str) -> None:
    spoil, overrides, message = LIGHT[case]
    spoil(folder)
    before = sorted(folder.rglob("*"))
    settings = [*TINY, f"data_path={folder / 'data'}", f"save={tmp_path / 'run'}", "split=50,50,0"]
    done = meap_train(settings + [o.format(folder) for o in overrides])
    assert done[0] == 2, done[1]
    assert message in done[1]
    assert done[1].startswith("meap: error: ") and "Traceback" not in done[1]
    assert not (tmp_path / "run").exists()
    assert sorted(folder.rglob("*")) == before


def test_official51_with_a_blend_is_refused_by_the_dataset(folder: Path, tmp_path: Path) -> None:
    blend = [f"data_path=[1, {folder / 'data'}, 1, {folder / 'data'}]", "meap_mask_strategy=official51"]
    settings = [*TINY, *blend, f"save={tmp_path / 'run'}", "device=cpu", "split=50,50,0"]
    status, said = meap_train(settings)
    assert status == 2 and "official51" in said and said.count("meap: error: ") == 1, said
    assert not list((tmp_path / "run").glob("iter_*"))


def meap_train(settings: list[str]) -> tuple[int, str]:
    """Return exit status and stderr of a training command with these overrides."""
    from tests.support.runs import RECIPES

    done = meap("train", RECIPES / MEAP, *settings, check=False, timeout=200)
    return done.returncode, done.stderr


def test_a_full_disk_ends_the_run_with_its_reason(folder: Path, tmp_path: Path, small_disk: Path) -> None:
    done = train(
        MEAP,
        *TINY,
        f"data_path={folder / 'data'}",
        f"save={small_disk / 'run'}",
        "train_iters=2",
        "split=50,50,0",
        check=False,
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    """A file system of 300 kB, too small for a checkpoint."""
    import subprocess

    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(mount)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs can only be mounted by root")
    yield mount
    # Lazily: a process of the checkpoint writer may still be on its way out.
    subprocess.run(["umount", "--lazy", str(mount)], check=True)
