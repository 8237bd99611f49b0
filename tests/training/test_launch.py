"""Ranks are started from SLURM's variables or on this machine, and one that fails ends the others."""

import signal
import socket
import sys

import pytest

from meap_megatron.errors import RunError
from meap_megatron.training import launch


def test_slurm_tells_a_task_which_rank_it_is() -> None:
    slurm = {
        "SLURM_PROCID": "9",
        "SLURM_NTASKS": "16",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "123456",
        "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    }
    assert launch.slurm_environment(slurm, "node1") == {
        "RANK": "9",
        "WORLD_SIZE": "16",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "23456",
    }


def test_a_plain_node_list_needs_no_scontrol() -> None:
    assert launch.first_slurm_host("node7") == "node7"


def test_a_node_list_without_scontrol_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RunError, match="set MASTER_ADDR"):
        launch.first_slurm_host("node[1-2]")


def ranks_that_run(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the launcher start `code` instead of the trainer; RANK is in the environment."""
    real = launch.subprocess.Popen
    monkeypatch.setattr(launch.subprocess, "Popen", lambda command, env: real([sys.executable, "-c", code], env=env))
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.3)


def test_all_ranks_well_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks_that_run(monkeypatch, "import os; assert os.environ['WORLD_SIZE'] == '3'")
    assert launch.run_ranks([], processes=3) == 0


def test_a_rank_that_dies_ends_the_others_and_is_named_with_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks_that_run(
        monkeypatch,
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    )
    with pytest.raises(RunError, match=f"rank 1 of 2 on {socket.gethostname()} was ended by SIGKILL"):
        launch.run_ranks([], processes=2)


def test_refused_input_keeps_its_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks_that_run(monkeypatch, "raise SystemExit(2)")
    assert launch.run_ranks([], processes=2) == 2


def test_signals_are_passed_on_to_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks_that_run(
        monkeypatch,
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n"
        "if os.environ['RANK'] == '0': time.sleep(0.5); os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(30)",
    )
    before = signal.getsignal(signal.SIGTERM)
    assert launch.run_ranks([], processes=2) == 0
    assert signal.getsignal(signal.SIGTERM) is before
