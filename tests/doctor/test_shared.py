"""Tasks find each other through a folder that is shared, and say whom they miss where it is not."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meap_megatron.doctor import shared
from meap_megatron.doctor.shared import Task


def task(rank: int, tasks: int) -> Task:
    return Task(rank=rank, tasks=tasks, meeting=".meap-doctor-7-0-0", host=f"node{rank}")


def meet(folders: list[Path], *, wait: float = 20) -> list:
    """Return the findings of one task per folder, all at the same time."""
    with ThreadPoolExecutor(len(folders)) as pool:
        work = [
            pool.submit(shared.finding, folder, task=task(rank, len(folders)), wait=wait)
            for rank, folder in enumerate(folders)
        ]
        return [done.result() for done in work]


def test_one_process_checks_writing_renaming_and_locking_and_leaves_nothing(tmp_path: Path) -> None:
    found = shared.finding(tmp_path, task=Task.of({}))
    assert found.state == "ok" and "rename and lock work" in found.detail
    assert os.listdir(tmp_path) == []


def test_three_tasks_on_one_folder_see_each_other(tmp_path: Path) -> None:
    found = meet([tmp_path] * 3)
    assert [f.state for f in found] == ["ok"] * 3
    assert "from node2, task 2 of 3" in found[2].detail and "3 tasks on 3 hosts" in found[2].detail
    assert os.listdir(tmp_path) == []


def test_a_task_with_another_folder_is_named_by_all(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    found = meet([tmp_path / "a", tmp_path / "a", tmp_path / "b"], wait=4)
    assert all(f.fails for f in found)
    assert "no file of task 2 appeared" in found[0].detail and "seen: node0, node1" in found[0].detail
    assert "no file of task 0, 1 appeared" in found[2].detail


def test_a_folder_that_is_not_there_fails_and_is_not_made(tmp_path: Path) -> None:
    found = shared.finding(tmp_path / "data", task=task(0, 1))
    assert found.fails and "is not a folder here" in found.detail and "node0" in found.detail
    assert not (tmp_path / "data").exists()


def test_a_file_system_without_locks_fails(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shared, "hold", lambda path: contextlib.nullcontext(path.touch() is None))
    assert "does not hold" in shared.finding(tmp_path, task=task(0, 1)).detail
    found = meet([tmp_path, tmp_path])
    assert found[1].fails and "does not hold" in found[1].detail


def test_a_folder_that_cannot_be_written_fails_with_the_systems_reason(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    found = shared.finding(tmp_path, task=task(0, 1))
    assert found.fails and "cannot be written: Permission denied" in found.detail


def test_the_task_comes_from_the_step_and_not_from_the_batch_script() -> None:
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"}
    assert (Task.of(batch).rank, Task.of(batch).tasks) == (0, 1)
    step = batch | {"SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "5"}
    here = Task.of(step)
    assert (here.rank, here.tasks, here.meeting) == (5, 16, ".meap-doctor-7-2-0")
    assert Task.of(step | {"SLURM_RESTART_COUNT": "1"}).meeting != here.meeting
