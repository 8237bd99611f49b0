"""An output that is replaced stays until the new one is complete, whenever the process is killed."""

import json
from pathlib import Path

import pytest

from meap_megatron import atomic
from meap_megatron.atomic import replace_file, replace_folder, replace_text
from meap_megatron.errors import RunError, UserError
from tests.support.kills import finishes_before_step


def write_folder(target: Path, text: str) -> None:
    with replace_folder(target) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text(text)
        (folder / "b").write_text(text)


def content(target: Path) -> list[str]:
    return [(target / "inner" / "a").read_text(), (target / "b").read_text()]


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_a_killed_replacement_of_a_folder_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    target = tmp_path / "model"
    for step in range(40):
        write_folder(target, "old")
        finished = finishes_before_step(lambda: write_folder(target, "new"), tmp_path, step)
        # Whatever comes next may fail before it has anything new: the old one must be back all the same.
        with pytest.raises(ZeroDivisionError), replace_folder(target):
            _ = 1 / 0
        assert content(target) in (["old"] * 2, ["new"] * 2)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
        if finished:
            break
    assert finished and step > 8


def test_a_folder_is_there_at_every_moment_where_names_can_be_exchanged(tmp_path: Path) -> None:
    if not atomic._exchange(*(path for name in "ab" if not (path := tmp_path / name).mkdir())):
        pytest.skip("this file system cannot exchange two names")
    target = tmp_path / "model"
    for step in range(40):
        write_folder(target, "old")
        finished = finishes_before_step(lambda: write_folder(target, "new"), tmp_path, step)
        assert content(target) in (["old"] * 2, ["new"] * 2)
        if finished:
            break
    assert finished


def test_a_killed_replacement_of_a_file_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for step in range(10):
        path.write_text("old")
        finished = finishes_before_step(lambda: replace_text(path, "new"), tmp_path, step)
        assert path.read_text() in ("old", "new")
        replace_text(path, "newest")
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
        if finished:
            break
    assert finished and step > 1


def test_a_link_to_a_folder_elsewhere_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "large_disk")
    write_folder(tmp_path / "model", "new")
    assert (tmp_path / "model").is_symlink() and content(tmp_path / "large_disk") == ["new"] * 2


def test_an_error_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ValueError), replace_file(tmp_path / "a") as stream:
        stream.write(b"half")
        raise ValueError
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(RunError, match="cannot write .*/no/"):
        replace_text(tmp_path / "no" / "a", "x")


def test_a_file_where_a_folder_should_be_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    for write in (lambda: replace_text(tmp_path / "a" / "b", "x"), lambda: write_folder(tmp_path / "a" / "b", "x")):
        with pytest.raises(UserError, match="cannot write .*/a/b: a file is where a folder should be"):
            write()
    assert (tmp_path / "a").read_text() == "old"


def test_half_a_surrogate_pair_in_json_is_written_and_read_back(tmp_path: Path) -> None:
    replace_text(tmp_path / "a.json", json.dumps({"answer": "ü \ud83d"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"answer": "ü \ud83d"}
