"""Run arms through `meap train`, one after the other; finished ones are skipped, others go on at their last checkpoint.

A locked arm belongs to another process, so that the script can be started twice to use two cores.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.retrieval_small.plan import MEAP_RATIO, NTP_RATIO, RECIPE, Plan
from meap_megatron.errors import RunError
from meap_megatron.launch import recipe as recipes
from meap_megatron.sweep.plan import Arm, is_finished


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm: what is trained, and where."""

    ratio: float
    seed: int
    folder: Path
    """Of this machine: checkpoints, logs, lock."""
    scores: Path
    """The file that says that the arm is trained and scored; it may come from another machine."""

    @property
    def save(self) -> Path:
        """Return the folder that `meap train` writes."""
        return self.folder / "run"


def arm(ratio: float, seed: int, *, out: Path, record: Path) -> Run:
    """Return the arm of a ratio and a seed."""
    name = f"ratio-{ratio:.2f}-seed-{seed}"
    return Run(ratio=ratio, seed=seed, folder=out / "arms" / name, scores=record / "scores" / f"{name}.json")


def main_runs(plan: Plan, *, out: Path, record: Path) -> list[Run]:
    """Return the runs of the main part: first the pairs of the primary comparison, then the rest, each by seed."""
    runs = [arm(ratio, seed, out=out, record=record) for ratio, seeds in plan.seeds.items() for seed in seeds]
    return sorted(runs, key=lambda run: (run.ratio not in (NTP_RATIO, MEAP_RATIO), run.seed, run.ratio))


def trial_runs(plan: Plan, *, out: Path, record: Path) -> list[Run]:
    """Return the runs outside of the comparison, NTP alone."""
    return [arm(NTP_RATIO, seed, out=out / "trial", record=record / "trial") for seed in plan.trial_seeds]


def overrides(plan: Plan, run: Run, *, prefix: Path) -> list[str]:
    """Return the words of `meap train` after the recipe; arms differ in ratio and seed only."""
    return [
        *plan.overrides,
        f"train_iters={plan.train_iters}",
        f"save_interval={plan.interval}",
        f"eval_interval={plan.train_iters + 1}",  # Megatron validates at the end in any case
        f"data_path={prefix}",
        f"meap_mask_ratio={run.ratio}",
        f"seed={run.seed}",
        f"save={run.save}",
    ]


@contextmanager
def locked(run: Run) -> Iterator[int | None]:
    """Hold an arm; gives the descriptor of the lock, or None if another process has it.

    The trainer inherits the descriptor: a trainer whose parent was killed keeps the arm until it is gone itself.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


def train(plan: Plan, run: Run, *, prefix: Path, lock: int) -> None:
    """Train one arm to its end, unless it is there.

    Raises:
        UserError: its folder holds a run with other settings.
        RunError: the trainer failed.
        SystemExit: a signal asked this process to stop; the trainer has saved and ended.
    """
    words = overrides(plan, run, prefix=prefix)
    sweep_arm, recipe = Arm(name=run.folder.name, save=run.save, overrides=words), recipes.load(RECIPE, words)
    if is_finished(sweep_arm, recipe):
        return
    received: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for process in started:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        command = [sys.executable, "-m", "meap_megatron.cli.main", "train", str(RECIPE), *words]
        environment = {"MEAP_THREADS": "1", **os.environ}
        started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[lock]))
        for number in list(received):  # came while it was being started
            started[0].send_signal(number)
        status = started[0].wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise SystemExit(128 + received[0])
    if status != 0 or not is_finished(sweep_arm, recipe):
        raise RunError(f"{run.folder.name} failed or was stopped (status {status}); the same command goes on with it")
