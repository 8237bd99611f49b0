"""One rank of a job on this machine as the launcher sees it: a forked process, or a program of its own."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from typing import Protocol

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Rank(Protocol):
    """What the launcher asks of a rank; `subprocess.Popen` has it."""

    def poll(self) -> int | None:
        """Return the exit status, minus the signal's number if one ended it, or None while it runs."""

    def send_signal(self, sig: int, /) -> None:
        """Send a signal; nothing happens if it has ended."""

    def kill(self) -> None:
        """Send SIGKILL."""


class ForkedRank:
    """A rank that is a copy of this process, which has imported Megatron already.

    Only before this process has started OpenMP threads or a process group: neither survives a fork.
    """

    def __init__(self, argv: list[str], environment: Mapping[str, str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = multiprocessing.get_context("fork").Process(target=_run, args=(argv, environment, os.getpid()))
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


def _run(argv: list[str], environment: Mapping[str, str], launcher: int) -> None:
    """Be a rank: the environment of one, the signals of a fresh process, and the trainer's exit status."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end_with(launcher)
    os.environ.update(environment)
    from meap_megatron.training.pretrain import main

    try:
        sys.exit(main(argv))
    except KeyboardInterrupt:
        sys.exit(130)


def end_with(launcher: int) -> None:
    """Have the kernel end this process when the launcher dies, even by SIGKILL; only Linux can do it."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != launcher:
        sys.exit(1)
