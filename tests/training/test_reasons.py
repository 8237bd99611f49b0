"""A failed run names the place, the limit and the way out, in one sentence."""

import errno
import os
import resource
from collections import namedtuple
from pathlib import Path

import pytest

from meap_megatron.training import reasons
from meap_megatron.training.reasons import reason_of

Usage = namedtuple("Usage", "total used free")


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/run/iter_0000002/x.distcp")


def caused_by(cause: Exception) -> RuntimeError:
    error = RuntimeError("Worker failure")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (os_error(errno.EDQUOT), ["disk quota exceeded in {folder}", "make room"]),
        (caused_by(os_error(errno.EDQUOT)), ["disk quota exceeded in {folder}"]),
        (RuntimeError("Worker failure: [Errno 122] Disk quota exceeded"), ["disk quota exceeded in {folder}"]),
        (os_error(errno.EMFILE), ["too many open files", "ulimit -n", "num_workers"]),
        (RuntimeError("unable to open: Too many open files"), ["too many open files", "ulimit -n"]),
        (os_error(errno.EFBIG), ["a file in {folder} would be larger", "ulimit -f unlimited"]),
        (
            RuntimeError(
                "Global shape mismatch for loaded (torch.Size([30, 64])) and expected ((4, 64)) tensor for key decoder.x"
            ),
            ["of another model: decoder.x is 30 x 64 in it and 4 x 64 in this recipe", "extends: .../model.yaml"],
        ),
        (AssertionError("OptimizerParamScheduler: class input value 1"), ["override_opt_param_scheduler=true"]),
        (RuntimeError("[gloo/transport/tcp] Connection reset by peer"), ["another rank"]),
        (ValueError("first line\nsecond line"), ["ValueError: first line second line"]),
    ],
)
def test_the_cause_of_a_failure_is_named(tmp_path: Path, error: Exception, says: list[str]) -> None:
    said = reason_of(error, tmp_path / "rank-0.log")
    for part in says:
        assert part.format(folder=tmp_path) in said
    assert "\n" not in said


def test_shared_memory_without_room_is_named_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Usage(65_536, 61_440, 4_096)
    monkeypatch.setattr(reasons, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(reasons.shutil, "disk_usage", lambda path: small)
    error = RuntimeError("unable to write to file </torch_12_34>: No space left on device (28)")
    said = reason_of(error, tmp_path / "rank-0.log")
    assert said.startswith(f"{tmp_path} is full: 4,096 of 65,536 bytes are free") and "num_workers=0" in said


@pytest.mark.parametrize(
    "words", ["[enforce fail at inline_container.cc:858] . pipe", "Worker failure: <class 'OSError'>"]
)
def test_a_failure_that_does_not_say_why_is_tried_again_in_the_folder(tmp_path: Path, words: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        said = reason_of(RuntimeError(words), tmp_path / "rank-0.log")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.startswith(f"a file in {tmp_path} would be larger than the limit of 100,000 bytes")


def test_a_disk_too_small_for_another_checkpoint_is_named_although_some_space_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "iter_0000010").mkdir()
    (tmp_path / "iter_0000010" / "a.distcp").write_bytes(bytes(300_000))
    for free, says in (
        (200_000, "it takes 300,000 bytes, and 200,000 are free at"),
        (400_000, "RuntimeError: Worker"),
    ):
        monkeypatch.setattr(reasons.shutil, "disk_usage", lambda path, free=free: Usage(10**9, 0, free))
        assert says in reason_of(RuntimeError("Worker failure: no reason"), tmp_path / "logs" / "rank-0.log")


def test_a_folder_that_cannot_be_looked_at_does_not_hide_the_error(tmp_path: Path) -> None:
    assert "RuntimeError: Worker failure" in reason_of(
        RuntimeError("Worker failure"), tmp_path / "gone" / "rank-0.log"
    )


def test_of_the_traceback_of_another_process_the_last_line_is_told(tmp_path: Path) -> None:
    words = "ranks:dict_keys([0])\nTraceback (most recent call last): (RANK 0)\n  File x\nKeyError: 'step'\n"
    assert reason_of(RuntimeError(words), tmp_path / "rank-0.log") == "KeyError: 'step'"


def test_the_place_that_is_named_is_the_run_not_the_folder_of_its_logs(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    said = reason_of(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path / "logs" / "rank-0.log")
    assert said.startswith(f"disk quota exceeded in {tmp_path};")
