"""One rank of a job on this machine as the launcher sees it: a forked process, or a program of its own."""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


class Rank(Protocol):
    """What the launcher asks of a rank; `subprocess.Popen` has it."""

    def poll(self) -> int | None:
        """Return the exit status, minus the signal's number if one ended it, or None while it runs."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal; nothing happens if it has ended."""

    def kill(self) -> None:
        """Send SIGKILL."""


def rank_environment(rank: int, *, world: int, port: int, alone: bool = False) -> dict[str, str]:
    """Return the variables that torch.distributed reads, for one rank of a job on this machine.

    Args:
        alone: the other ranks are on machines of their own.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": "0" if alone else str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": "1" if alone else str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


class ForkedRank:
    """A rank that is a copy of this process, which has imported Megatron already.

    Only before this process has started OpenMP threads or a process group: neither survives a fork.
    """

    def __init__(self, argv: list[str], environment: Mapping[str, str], *, trainer: str) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = multiprocessing.get_context("fork").Process(
            target=_run, args=(argv, environment, trainer, os.getpid())
        )
        self.process.start()

    def poll(self) -> int | None:
        """See `Rank`."""
        return self.process.exitcode

    def send_signal(self, sig: int, /) -> None:
        """See `Rank`."""
        if self.process.pid is not None and self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, sig)

    def kill(self) -> None:
        """See `Rank`."""
        self.send_signal(signal.SIGKILL)


def _run(argv: list[str], environment: Mapping[str, str], trainer: str, launcher: int) -> None:
    """Be a rank: the environment of one, the signals of a fresh process, and the trainer's exit status."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the launcher tells the ranks itself
    end_with(launcher)
    os.environ.update(environment)
    status: int | str | None
    try:
        status = importlib.import_module(trainer).main(argv)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as stop:
        # Its traceback holds the loaders. Their workers ignore SIGTERM (Megatron's worker_init_fn), so that
        # multiprocessing, which ends processes with it and then waits for them, would wait for ever.
        status = stop.code
    sys.exit(status)


def end_with(launcher: int) -> None:
    """Have the kernel end this process when the launcher dies, even by SIGKILL; only Linux can do it."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:
        sys.exit(1)


@contextlib.contextmanager
def no_orphans() -> Iterator[None]:
    """End what the ranks leave behind: a rank that is killed cannot end the processes that write its checkpoints.

    Inside, processes whose parent has died become children of this one; on leaving, those are killed. Only Linux can do it.
    """
    if sys.platform != "linux":
        yield
        return
    before = children()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        # Those killed may have children of their own, which come to us next.
        while left := children() - before:
            for pid in left:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def children() -> set[int]:
    """Return the process ids of this process's children."""
    pids = ""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            pids += (thread / "children").read_text()
    return {int(pid) for pid in pids.split()}
