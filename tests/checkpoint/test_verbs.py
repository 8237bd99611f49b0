"""`meap checkpoint list` and `meap checkpoint verify` say what is there, name what is damaged, and tell scripts."""

import json
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.checkpoint.checkpoint_samples import flip_a_byte, good_checkpoint, plain_checkpoint, unfinished_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    plain_checkpoint(tmp_path, 2)
    good_checkpoint(tmp_path, 4)
    good_checkpoint(tmp_path, 8)
    unfinished_checkpoint(tmp_path, 12)
    return tmp_path


def test_list_shows_each_checkpoint_and_which_would_be_loaded(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["step", "2", "4", "8", "12"]
    assert "no manifest" in lines[1] and "unfinished" in lines[4]
    assert "good         4 ranks: TP 2 PP 2  2026-01-02 03:04:05 UTC  <- would be loaded" in lines[3]
    assert sum("would be loaded" in line for line in lines) == 1


def test_list_as_json_holds_what_a_script_needs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "damaged-iter_0000006").mkdir()
    assert main(["checkpoint", "list", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["would_load"], found["tracker"], found["set_aside"]) == (8, "8", ["damaged-iter_0000006"])
    states = {one["iteration"]: one["state"] for one in found["checkpoints"]}
    assert states == {2: "no manifest", 4: "good", 8: "good", 12: "unfinished"}
    assert found["checkpoints"][2]["consumed_samples"] == 64


def test_verify_names_the_damaged_file_and_ends_with_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_a_byte(run / "iter_0000008" / "__0_0.distcp")
    assert main(["checkpoint", "verify", str(run), "--iteration", "4"]) == 0
    assert main(["checkpoint", "verify", str(run), "--iteration", "8"]) == 1
    said = capsys.readouterr()
    assert "  __0_0.distcp: expected SHA-256 " in said.out
    assert "not whole: iter_0000008" in said.err
    assert main(["checkpoint", "verify", str(run), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(one["iteration"], one["state"]) for one in found] == [
        (2, "no manifest"),
        (4, "good"),
        (8, "damaged"),
        (12, "unfinished"),
    ]
    assert found[2]["problems"][0]["file"] == "__0_0.distcp"


def test_what_cannot_be_verified_or_listed_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(tmp_path)]) == 2
    assert main(["checkpoint", "verify", str(tmp_path / "nothing")]) == 2
    assert main(["checkpoint", "list", str(tmp_path / "nothing")]) == 2
    assert main(["checkpoint", "list", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("holds no checkpoint (iter_NNNNNNN)\n  fix: name the `save` folder of a run") == 3
    good_checkpoint(tmp_path, 4)
    assert main(["checkpoint", "verify", str(tmp_path), "--iteration", "5"]) == 2
    assert "take --iteration 4" in capsys.readouterr().err
    (tmp_path / "iter_0000004" / ".metadata").unlink()
    assert main(["checkpoint", "list", str(tmp_path)]) == 2
