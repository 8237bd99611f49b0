"""What the benchmarks share: one timing routine, one table, one document as the last line.

Contestants take turns, so that a slow moment of the machine hits all of them.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from meap_megatron.formats import aligned


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
    divisors: Mapping[str, int] = {},
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
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, call in contestants.items():
            began = clock()
            for number in range(calls):
                call(round_ * calls + number)
            if round_ > 0:
                times[name].append(1e6 * (clock() - began) / calls / divisors.get(name, 1))
    return {
        name: Timing(median=statistics.median(all_), lowest=min(all_), highest=max(all_))
        for name, all_ in times.items()
    }


def arguments(text: str) -> argparse.ArgumentParser:
    """Return the parser of a script with this docstring; it has `--quick`."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="little data, for tests: the figures mean nothing (off)")
    return parser


def use_one_thread() -> None:
    """Keep torch to one thread, and Megatron from printing lines that are not figures."""
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def print_table(*rows: Sequence[str]) -> None:
    """Print a table, names to the left and figures to the right."""
    print("\n" + "\n".join(aligned(rows, left={0})), flush=True)


def publish(benchmark: str, *, quick: bool, ratios: dict[str, float], packages: Sequence[str], **facts: object) -> int:
    """Print the ratios, and the document as the last line; return the exit status.

    Args:
        benchmark: its name.
        quick: the figures mean nothing.
        ratios: what benchmarks/compare.py compares. `lower_is_better` and `not_judged` among the facts name some of them.
        packages: whose versions decide the figures.
        facts: what else the document says.
    """
    if ratios:
        print_table(("ratios", ""), *((f"  {name}", f"{ratio:.2f}") for name, ratio in ratios.items()))
    document = {
        "benchmark": benchmark,
        "quick": quick,
        **facts,
        "ratios": {name: float(f"{ratio:.4g}") for name, ratio in ratios.items()},
        "load": os.getloadavg()[0],
        "environment": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }
    print(json.dumps(document))
    return 0
