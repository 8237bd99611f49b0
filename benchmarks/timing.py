"""The one timing routine of the benchmarks: contestants take turns, so that a slow moment of the machine hits all."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time per call over the rounds, in microseconds."""

    median: float
    lowest: float
    highest: float


def interleaved(
    contestants: dict[str, Callable[[int], object]],
    *,
    rounds: int,
    calls: int,
    divisors: dict[str, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every contestant once per round, in turns, and return microseconds per call.

    Args:
        contestants: name -> function of the call's number (0, 1, ...).
        rounds: measurements per contestant; the first round before them warms up and is not counted.
        calls: calls per measurement.
        divisors: name -> samples made by one call, 1 where it is missing.
        clock: seconds; `time.thread_time` leaves out what other programs take from the core.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, call in contestants.items():
            began = clock()
            for number in range(calls):
                call(round_ * calls + number)
            if round_ > 0:
                seconds[name].append((clock() - began) / calls / (divisors or {}).get(name, 1))
    return {
        name: Timing(median=1e6 * statistics.median(all_), lowest=1e6 * min(all_), highest=1e6 * max(all_))
        for name, all_ in seconds.items()
    }


def environment(*packages: str) -> dict[str, str | int]:
    """Return what a reader needs to judge the figures: processor class, cores, Python and library versions."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
