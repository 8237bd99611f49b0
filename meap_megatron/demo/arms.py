"""Run several `meap` commands side by side, each in its own process, with every line marked by its arm.

Side by side with one thread each is about twice as fast on two cores as one after the other with two threads: a model
this small gives a second thread nothing to do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

from meap_megatron.errors import RunError

GRACE_SECONDS = 5.0
"""How long a process gets to end by itself after SIGTERM."""


@dataclass(kw_only=True)
class DemoArm:
    """One `meap` command that is to run."""

    name: str
    arguments: list[str]
    """Of `meap`, the verb first."""
    log: Path | None = None
    """Megatron's own output, to be named if the arm fails."""
    said: list[str] = field(default_factory=list)
    """All lines that it printed."""


def command(arm: DemoArm) -> list[str]:
    """Return the command that starts an arm."""
    return [sys.executable, "-u", "-m", "meap_megatron.cli.main", *arm.arguments]


def run_side_by_side(arms: list[DemoArm], *, threads: int, show: Callable[[str, str], None]) -> None:
    """Run all arms at the same time and wait for them.

    Args:
        arms: `said` of each is filled.
        threads: of each process.
        show: called with (name of the arm, line) for every line that an arm prints.

    Raises:
        RunError: an arm failed; the others were stopped. The message names the arm and its log.
    """
    # The other verbs than `train` take the number of threads from OpenMP's variable.
    environment = os.environ | {"MEAP_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    processes: list[subprocess.Popen[str]] = []
    readers: list[threading.Thread] = []

    def read(arm: DemoArm, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was opened as a pipe"
        for line in process.stdout:
            # A progress bar is printed again and again.
            if "%|" in line or not line.strip():
                continue
            arm.said.append(line.rstrip("\n"))
            show(arm.name, arm.said[-1])

    with sigterm_as_interrupt():
        try:
            for arm in arms:
                process = subprocess.Popen(
                    command(arm),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                    errors="replace",
                )
                processes.append(process)
                readers.append(threading.Thread(target=read, args=(arm, process), daemon=True))
                readers[-1].start()
            failed = first_failure(processes)
        finally:
            stop(processes)
    for reader in readers:
        reader.join(timeout=GRACE_SECONDS)
    if failed is not None:
        raise RunError(failure_message(arms[failed], processes[failed].returncode))


def first_failure(processes: list[subprocess.Popen[str]]) -> int | None:
    """Wait until all processes have ended well (None) or one has not (its number)."""
    while True:
        states = [process.poll() for process in processes]
        for number, state in enumerate(states):
            if state not in (None, 0):
                return number
        if all(state == 0 for state in states):
            return None
        time.sleep(0.1)


def stop(processes: list[subprocess.Popen[str]]) -> None:
    """End the processes that still run: SIGTERM, and SIGKILL for those that do not listen."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in running:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, so that a demo that is ended from outside ends its children too."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        # A second one must not break off the ending of the children.
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def failure_message(arm: DemoArm, status: int) -> str:
    """Return what to say of an arm that failed: how it ended, its last error, and its log."""
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    lines = [line for line in arm.said if "error" in line.lower()][-1:] or arm.said[-1:]
    last = f": {lines[0].removeprefix('meap: error: ')}" if lines else ""
    where = f"full log: {arm.log}" if arm.log is not None and arm.log.exists() else "it wrote no log"
    return f"the {arm.name} run {how}{last}\n{where}"
