"""Damage of any kind is found and named; what is whole is called whole."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from meap_megatron.checkpoint import check, manifest
from meap_megatron.checkpoint.check import inspect
from meap_megatron.checkpoint.manifest import share_of_rank
from tests.checkpoint.checkpoint_samples import flip_a_byte, good_checkpoint, plain_checkpoint, unfinished_checkpoint

TENSORS = "__0_0.distcp"


def test_the_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    checkpoint = good_checkpoint(tmp_path, 4)
    known = manifest.read(checkpoint)
    assert known is not None and set(known.files) == {".metadata", TENSORS, "metadata.json"}
    for name, entry in known.files.items():
        data = (checkpoint / name).read_bytes()
        assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_whole_checkpoint_is_good_at_every_level(tmp_path: Path) -> None:
    checkpoint = good_checkpoint(tmp_path, 4)
    for level, used in (("sizes", "sizes"), ("full", "full"), ("auto", "full")):
        found = inspect(checkpoint, level, read_index=True)  # type: ignore[arg-type]
        assert (found.state, found.level, found.problems) == ("good", used, [])


@pytest.mark.parametrize("name", [".metadata", TENSORS, "metadata.json"])
def test_one_changed_bit_in_any_file_is_found_by_content_only(tmp_path: Path, name: str) -> None:
    checkpoint = good_checkpoint(tmp_path, 4)
    before = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    flip_a_byte(checkpoint / name)
    after = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    assert inspect(checkpoint, "sizes").state == "good"
    found = inspect(checkpoint, "full")
    assert found.state == "damaged"
    assert [str(problem) for problem in found.problems] == [f"{name}: expected SHA-256 {before}, found {after}"]


@pytest.mark.parametrize("name", [".metadata", TENSORS, "metadata.json"])
def test_a_missing_and_a_truncated_file_are_found_by_size(tmp_path: Path, name: str) -> None:
    checkpoint = good_checkpoint(tmp_path, 4)
    size = (checkpoint / name).stat().st_size
    os.truncate(checkpoint / name, size - 1)
    assert (
        str(inspect(checkpoint, "sizes").problems[0]) == f"{name}: expected {size:,} bytes, found {size - 1:,} bytes"
    )
    (checkpoint / name).unlink()
    (problem,) = inspect(checkpoint, "full").problems
    assert str(problem) == f"{name}: expected {size:,} bytes, found no such file"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "files": {}}', '{"format": 1, "files": {"a": {}}}'])
def test_a_manifest_that_cannot_be_read_is_damage(tmp_path: Path, text: str) -> None:
    checkpoint = good_checkpoint(tmp_path, 4)
    (checkpoint / manifest.NAME).write_text(text)
    found = inspect(checkpoint, "sizes")
    assert found.state == "damaged" and found.problems[0].file == manifest.NAME


def test_a_broken_off_save_is_unfinished_whatever_files_it_left(tmp_path: Path) -> None:
    checkpoint = unfinished_checkpoint(tmp_path, 4)
    assert inspect(checkpoint, "full").state == "unfinished"
    complete = good_checkpoint(tmp_path, 8)
    raw = json.loads((complete / manifest.NAME).read_text())
    (complete / manifest.NAME).write_text(json.dumps(raw | {"complete": False}))
    assert inspect(complete, "full").state == "unfinished"


def test_a_checkpoint_of_plain_megatron_is_judged_by_its_index(tmp_path: Path) -> None:
    checkpoint = plain_checkpoint(tmp_path, 4)
    assert inspect(checkpoint, "full").state == "no manifest"
    size = (checkpoint / TENSORS).stat().st_size
    os.truncate(checkpoint / TENSORS, size // 2)
    (problem,) = inspect(checkpoint, "sizes").problems
    assert problem.file == TENSORS and problem.found == f"{size // 2:,} bytes"
    (checkpoint / TENSORS).unlink()
    assert inspect(checkpoint, "sizes").problems[0].found == "no such file"
    (checkpoint / ".metadata").write_bytes(b"\x80\x04not a pickle")
    assert inspect(checkpoint, "sizes").problems[0].file == ".metadata"
    (checkpoint / ".metadata").unlink()
    assert inspect(checkpoint, "sizes").state == "unfinished"


def test_one_file_per_rank_has_no_index_and_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "iter_0000004" / "mp_rank_00").mkdir(parents=True)
    assert inspect(tmp_path / "iter_0000004", "full").state == "unfinished"
    (tmp_path / "iter_0000004" / "mp_rank_00" / "model_optim_rng.pt").write_bytes(b"x")
    assert inspect(tmp_path / "iter_0000004", "full").state == "no manifest"


def test_the_index_is_read_beside_the_manifest_when_asked(tmp_path: Path) -> None:
    checkpoint = plain_checkpoint(tmp_path, 4)
    (checkpoint / TENSORS).write_bytes(b"x" * 10)  # as if Megatron had written a file too short
    entries = manifest.file_entries(checkpoint, [".metadata", TENSORS, "metadata.json"])
    files = {name: entry for name, entry in entries.items() if not isinstance(entry, OSError)}
    manifest.write(checkpoint, manifest.Manifest(iteration=4, complete=True, files=files))
    assert inspect(checkpoint, "full").state == "good"
    found = inspect(checkpoint, "full", read_index=True)
    assert found.state == "damaged" and found.problems[0].file == TENSORS


def test_large_checkpoints_are_compared_by_size_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = good_checkpoint(tmp_path, 4)
    monkeypatch.setattr(check, "AUTO_FULL_BYTES", 100)
    assert inspect(checkpoint, "auto").level == "sizes"
    assert inspect(checkpoint, "full").level == "full"


def test_every_file_is_read_by_exactly_one_rank_its_writer_if_it_is_there() -> None:
    names = [
        ".metadata",
        "metadata.json",
        "__0_0.distcp",
        "__1_0.distcp",
        "__1_1.distcp",
        "__12_0.distcp",
        manifest.NAME,
    ]
    shares = [share_of_rank(names, rank=rank, world=3) for rank in range(3)]
    # Rank 12 of an earlier, larger job does not exist here: rank 0 reads its file.
    assert shares == [
        [".metadata", "metadata.json", "__0_0.distcp", "__12_0.distcp"],
        ["__1_0.distcp", "__1_1.distcp"],
        [],
    ]
