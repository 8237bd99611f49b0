"""Run the arms of a sweep one after the other on this machine, or write down how SLURM runs them side by side."""

import signal
import subprocess
import sys
from typing import Any

from meap_megatron import shipped
from meap_megatron.errors import UserError
from meap_megatron.sweep.plan import Arm, Sweep, steps_done

GPUS_PER_NODE = 8


def train_command(sweep: Sweep, arm: Arm) -> list[str]:
    """Return the arguments of `meap` that run an arm."""
    return ["train", str(sweep.recipe), *arm.overrides]


def run_arms(sweep: Sweep, *, finished: set[str]) -> int:
    """Run all arms that are not finished; an arm that fails does not keep the others from running.

    Args:
        finished: names of the arms to skip.

    Returns:
        0 if every arm has ended well, else 1; 2 as soon as an arm is refused, for the others are made of the same recipe;
        128 plus the signal's number if one stopped the sweep.
    """
    failed = []
    for number, arm in enumerate(sweep.arms, start=1):
        print(f"arm {number}/{len(sweep.arms)}  {arm.name}  {arm.save}", flush=True)
        if arm.name in finished:
            print("finished already", flush=True)
            continue
        status, stopped_by = run_arm(sweep, arm)
        if stopped_by is not None:
            return 128 + stopped_by
        if status == UserError.exit_status:
            return status
        if status != 0:
            failed.append(f"{arm.name} at step {steps_done(arm.save)[0]}")
    if failed:
        print(f"meap: error: failed: {', '.join(failed)}; the same command continues them", file=sys.stderr)
    return 1 if failed else 0


def run_arm(sweep: Sweep, arm: Arm) -> tuple[int, int | None]:
    """Run one arm in a process of its own, and pass SIGTERM and SIGINT on to it.

    Returns:
        (exit status, the signal that this process received, if any).
    """
    received: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for process in started:
            process.send_signal(number)

    # Before the arm starts, so that no signal can end this process and leave the arm running.
    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        started.append(subprocess.Popen([sys.executable, "-m", "meap_megatron.cli.main", *train_command(sweep, arm)]))
        for number in list(received):  # came while it was being started
            started[0].send_signal(number)
        return started[0].wait(), received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def slurm_command(sweep: Sweep, arm: Arm, *, script: str, gpus: int) -> str:
    """Return the sbatch command that runs an arm as a job of its own, over as many starts as it takes.

    Args:
        script: name of the batch script, which takes the arguments of `meap train`.
        gpus: of the arm, 8 per node.
    """
    name = f"{sweep.path.stem}-{arm.name}"
    options = [f"--job-name={name}", f"--nodes={-(-gpus // GPUS_PER_NODE)}"]
    return shipped.sbatch(script, train_command(sweep, arm)[1:], options=options)
