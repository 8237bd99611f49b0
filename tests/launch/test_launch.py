"""Ranks are started from SLURM's variables or on this machine, and one that fails ends the others."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meap_megatron.errors import RunError
from meap_megatron.launch import launch
from meap_megatron.training import pretrain


def test_slurm_tells_a_task_which_rank_it_is() -> None:
    slurm = {
        "SLURM_PROCID": "9",
        "SLURM_NTASKS": "16",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
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


@pytest.fixture(params=["cpu", "cuda"], ids=["forked", "programs"])
def run_ranks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a launcher of ranks that run some code instead of the trainer; RANK is in their environment."""
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(pretrain, "before_forks", lambda: None)
    monkeypatch.setattr(launch, "data_flags", lambda argv: [])
    real = launch.subprocess.Popen

    def run(code: str, *, processes: int) -> int:
        monkeypatch.setattr(pretrain, "main", lambda argv: exec(code, {}))
        monkeypatch.setattr(
            launch.subprocess, "Popen", lambda command, env: real([sys.executable, "-c", code], env=env)
        )
        return launch.run_ranks([], processes=processes, device=request.param, trainer=pretrain.__name__)

    return run


def test_all_ranks_well_is_success(run_ranks: Callable[..., int]) -> None:
    assert run_ranks("import os; assert os.environ['WORLD_SIZE'] == '3'", processes=3) == 0


def test_a_rank_that_dies_ends_the_others_and_is_named_with_its_host(run_ranks: Callable[..., int]) -> None:
    code = (
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    )
    with pytest.raises(RunError, match=f"rank 1 of 2 on {socket.gethostname()} was ended by SIGKILL"):
        run_ranks(code, processes=2)


class Ended:
    def __init__(self, status: int | None) -> None:
        self.status = status

    def poll(self) -> int | None:
        return self.status

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


def test_the_rank_that_was_killed_is_named_and_not_the_one_that_lost_it() -> None:
    assert launch.first_failure([Ended(None), Ended(1), Ended(0), Ended(-9)]) == 3
    assert launch.first_failure([Ended(0), Ended(2), Ended(1)]) == 1


def test_refused_input_keeps_its_exit_status(run_ranks: Callable[..., int]) -> None:
    assert run_ranks("raise SystemExit(2)", processes=2) == 2


def test_signals_are_passed_on_to_the_ranks(run_ranks: Callable[..., int]) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n"
        "if os.environ['RANK'] == '0': time.sleep(0.5); os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(30)"
    )
    before = signal.getsignal(signal.SIGTERM)
    assert run_ranks(code, processes=2) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_killed_rank_leaves_behind_is_ended(run_ranks: Callable[..., int], tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "child = os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '60')\n"
        f"open('{tmp_path}/pid', 'w').write(str(child))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(RunError, match="rank 0 of 1"):
        run_ranks(code, processes=1)
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_forked_ranks_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    launcher = (
        "import os, sys, time\n"
        "from meap_megatron.launch import launch\n"
        "from meap_megatron.training import pretrain\n"
        "pretrain.before_forks = lambda: None\n"
        "launch.data_flags = lambda argv: []\n"
        "def rank(argv):\n"
        f"    open(f'{tmp_path}/' + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(60)\n"
        "pretrain.main = rank\n"
        "launch.run_ranks([], processes=2, device='cpu', trainer=pretrain.__name__)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", launcher])
    deadline = time.monotonic() + 30
    while not (ranks := [int(p.read_text() or 0) for p in tmp_path.iterdir()]) or len(ranks) < 2 or 0 in ranks:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(is_running(pid) for pid in ranks):
        assert time.monotonic() < deadline, "a rank outlived its launcher"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("environ", "forgets"),
    [
        ({"WORLD_SIZE": "4"}, True),
        ({"WORLD_SIZE": "4", "RANK": "0"}, True),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "a"}, True),
        ({"WORLD_SIZE": "4", "RANK": "0", "MASTER_ADDR": "a"}, False),
        ({"WORLD_SIZE": "1"}, False),
        ({}, False),
    ],
)
def test_a_world_size_that_was_left_over_is_ignored_and_named(environ: dict[str, str], forgets: bool) -> None:
    given = dict(environ)
    said = launch.forget_leftovers(given)
    assert (said is not None) == forgets
    assert given == ({name: value for name, value in environ.items() if name == "MASTER_ADDR"} if forgets else environ)
    assert not forgets or "WORLD_SIZE=4 of the environment is ignored" in str(said)


def test_ctrl_c_reaches_each_rank_once_and_the_second_one_ends_them(
    run_ranks: Callable[..., int], tmp_path: Path
) -> None:
    code = (
        "import os, pathlib, signal, time\n"
        f"told = pathlib.Path({str(tmp_path)!r}) / os.environ['RANK']\n"
        "signal.signal(signal.SIGTERM, lambda *a: told.open('a').write('x'))\n"
        "ready = told.with_suffix('.ready'); ready.touch()\n"
        "if os.environ['RANK'] == '0':\n"
        f"    while len(list(pathlib.Path({str(tmp_path)!r}).glob('*.ready'))) < 2: time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"  # as a terminal does
        "    os.kill(os.getppid(), signal.SIGINT); time.sleep(1); os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        run_ranks(code, processes=2)
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["x", "x"]
