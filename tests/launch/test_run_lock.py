"""One run in one folder: a live owner keeps it, a dead one loses it, on this machine and on another."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch import run_lock
from meap_megatron.launch.run_lock import NAME, RunLock
from tests.support.runs import ROOT

HOLD = (
    "import sys, time, pathlib, os\n"
    "from meap_megatron.launch.run_lock import RunLock\n"
    "RunLock(pathlib.Path(sys.argv[1])).acquire()\n"
    "child = os.fork() if sys.argv[2] == 'fork' else 1\n"
    "if child: print(child, flush=True)\n"
    "time.sleep(60)\n"
)


def holder(folder: Path, *, forks: bool = False) -> tuple[subprocess.Popen[str], int]:
    """Start a process that has the lock; return it and the id of its child."""
    command = [sys.executable, "-c", HOLD, str(folder), "fork" if forks else "alone"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_the_second_of_two_runs_is_refused_and_told_who_has_the_folder(tmp_path: Path) -> None:
    process, _ = holder(tmp_path)
    try:
        with pytest.raises(
            UserError, match=rf"is used by another run: process {process.pid} on {socket.gethostname()}"
        ):
            RunLock(tmp_path).acquire()
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_was_made_for_a_refused_run_is_removed_and_a_file_is_refused(tmp_path: Path) -> None:
    def hold(folder: Path, *, writes: bool = False) -> bool:
        lock = RunLock(folder)
        lock.acquire()
        (folder / "metrics").touch() if writes else None
        lock.release()
        return folder.exists()

    assert not hold(tmp_path / "runs" / "new") and list(tmp_path.iterdir()) == []
    assert hold(tmp_path)  # was there before
    assert hold(tmp_path / "runs" / "kept", writes=True)
    with pytest.raises(UserError, match=r"metrics/new: .*kept/metrics is a file; name a folder"):
        RunLock(tmp_path / "runs" / "kept" / "metrics" / "new").acquire()


def test_a_killed_owner_loses_the_folder_at_once_though_its_workers_live(tmp_path: Path) -> None:
    process, worker = holder(tmp_path, forks=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        lock = RunLock(tmp_path)
        lock.acquire()
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        lock.release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_run_that_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    for _ in range(2):
        lock = RunLock(tmp_path / "run")
        lock.acquire()
        lock.release()
        lock.release()
    assert not (tmp_path / "run").exists()


def elsewhere(folder: Path, **changes: Any) -> Path:
    """Write the lock of a process on another machine."""
    path = folder / NAME
    path.write_text(json.dumps(run_lock.own_card() | {"host": "node7", "boot": "another", "pid": 77} | changes))
    return path


def test_an_owner_on_another_machine_that_gives_signs_of_life_keeps_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "LEASE_SECONDS", 20.0)
    path = elsewhere(tmp_path)
    os.utime(path, (time.time() - 10, time.time() - 10))
    beat = f"import time, os; time.sleep(1.5); os.utime({str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", beat])
    said: list[str] = []
    with pytest.raises(UserError, match="process 77 on node7"):
        RunLock(tmp_path).acquire(said.append)
    process.wait()
    assert "process 77 on node7" in said[0]


def test_an_owner_on_another_machine_without_a_sign_of_life_loses_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "LEASE_SECONDS", 2.0)
    elsewhere(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire(lambda line: None)
    lock.release()


@pytest.mark.parametrize(
    ("owner", "mine", "free"),
    [
        ({"slurm_job": "5", "slurm_restart": "0"}, {"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"}, True),
        ({"slurm_job": "5", "slurm_restart": "1"}, {"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"}, False),
        ({"slurm_job": "4", "slurm_restart": "0"}, {"SLURM_JOB_ID": "5"}, True),  # squeue knows it no longer
        ({"slurm_job": "6", "slurm_restart": "0"}, {"SLURM_JOB_ID": "5"}, False),  # squeue says that it runs
    ],
    ids=["requeued", "another step", "ended job", "running job"],
)
def test_slurm_knows_which_owners_are_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: dict[str, str], mine: dict[str, str], free: bool
) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\ncase $3 in 6) echo RUNNING;; esac\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    assert run_lock.job_has_ended(owner, run_lock.own_card()) == free


def test_the_time_of_the_file_is_renewed_while_the_run_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    lock = RunLock(tmp_path)
    lock.acquire()
    os.utime(tmp_path / NAME, (1, 1))
    deadline = time.monotonic() + 20
    while (tmp_path / NAME).stat().st_mtime < 100 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / NAME).stat().st_mtime > 100
    lock.release()


def test_without_locks_in_the_file_system_a_dead_process_still_loses_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "lock", lambda descriptor: None)
    monkeypatch.setattr(run_lock, "SETTLE_SECONDS", 0.01)
    process, _ = holder(tmp_path)
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        RunLock(tmp_path).acquire()
    process.kill()
    process.wait()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*run.lock: .*; set save to a folder"):
        RunLock(Path("/proc/run")).acquire()
