"""Several runs on one card that take their steps in turns, so that what slows the card down hits all of them."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

from benchmarks.gpu.trainer import Run

START_LIMIT = 150.0
STEP_LIMIT = 60.0


def take_turns(starts: dict[str, Callable[[Connection], Run]], *, turns: int, warm: int) -> dict[str, list[float]]:
    """Start all contestants, let each take `warm` and `turns` steps in turns, end them; return the seconds per step.

    A contestant reports a step when it comes to the next one, so it must be set to take one step more.

    Args:
        starts: name -> function that starts a run which waits at the other end of a connection (see `trainer.Watch`).
        turns: steps of each that count.
        warm: steps of each before them.

    Raises:
        RuntimeError: a contestant ended or did not answer in time.
    """
    ends: dict[str, Connection] = {}
    runs: dict[str, Run] = {}
    found: dict[str, list[float]] = {name: [] for name in starts}
    try:
        for name, begin in starts.items():
            ends[name], other = multiprocessing.Pipe()
            runs[name] = begin(other)
            other.close()
        for name in starts:
            answer(ends[name], runs[name], START_LIMIT)
        for turn in range(warm + turns):
            # Every other turn backwards: whoever comes after the same neighbour each time would have its caches.
            for name in list(starts) if turn % 2 == 0 else list(starts)[::-1]:
                ends[name].send(True)
                seconds = answer(ends[name], runs[name], STEP_LIMIT)
                if turn >= warm and seconds is not None:
                    found[name].append(seconds)
    finally:
        for end in ends.values():
            try:
                end.send(False)
            except OSError:
                pass
        for run in runs.values():
            run.process.join(10)
            if run.process.exitcode is None:
                run.process.kill()
    return found


def answer(end: Connection, run: Run, limit: float) -> float | None:
    """Return the seconds of the step that has just ended, None before the first."""
    if end.poll(limit):
        try:
            seconds: float | None = end.recv()
            return seconds
        except EOFError:
            pass
        run.wait(10)
    raise RuntimeError(f"{run.folder.name} did not take a step in {limit:.0f} s")
