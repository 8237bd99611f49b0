"""Start a command line: in this process, as several processes on this machine, or as the rank that SLURM says it is."""

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import environment, resume, runtime, slurm_time_limit, wandb_run
from meap_megatron.launch.data_flags import data_flags
from meap_megatron.launch.named_settings import of_command_line
from meap_megatron.launch.outcome import TOLD, saved
from meap_megatron.launch.ranks import ForkedRank, Rank, no_orphans, rank_environment

GRACE_SECONDS = 5.0
"""How long ranks get to end by themselves when one has failed, and again after SIGTERM."""


def slurm_environment(environ: Mapping[str, str], master: str) -> dict[str, str]:
    """Return the variables that torch.distributed reads, from those that `srun` sets.

    Args:
        environ: with SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, SLURM_NODEID, SLURM_JOB_ID.
        master: host name of the first node.
    """
    tasks = tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1")
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_NTASKS"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(tasks[int(environ["SLURM_NODEID"])]),
        "MASTER_ADDR": environ.get("MASTER_ADDR", master),
        # One port per job, outside the range that Linux gives to clients.
        "MASTER_PORT": environ.get("MASTER_PORT", str(20000 + int(environ["SLURM_JOB_ID"]) % 12000)),
    }


def tasks_per_node(text: str) -> list[int]:
    """Return the number of tasks of every node of a step: "8(x2),3" is [8, 8, 3]."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts


def first_slurm_host(node_list: str) -> str:
    """Return the first host of a SLURM node list, asking `scontrol` to expand it."""
    if not any(mark in node_list for mark in "[,"):
        return node_list
    try:
        done = subprocess.run(
            ["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(
            f"cannot expand the node list {node_list}: {error}", fix="set MASTER_ADDR to the first host"
        ) from None
    return done.stdout.split()[0]


def number_of_processes(nproc: int, device: str) -> int:
    """Return how many processes to start: as asked, or for 0 one per GPU, and one on a CPU."""
    if nproc > 0:
        return nproc
    if device == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def known_world(nproc: int, device: str) -> int | None:
    """Return the processes of the job as far as they are known before torch is imported; None: one per GPU of the job.

    Args:
        nproc: processes on this machine, 0 for one per GPU, and one on a CPU.
        device: "auto", "cpu" or "cuda".
    """
    name = "WORLD_SIZE" if "RANK" in os.environ else "SLURM_NTASKS" if "SLURM_STEP_ID" in os.environ else ""
    if (text := os.environ.get(name, "")).isdecimal() and int(text) > 1:
        return int(text)
    return nproc or (1 if device == "cpu" else None)


def forget_leftovers(environ: MutableMapping[str, str]) -> str | None:
    """Take WORLD_SIZE out of an environment that does not say which rank this is, and return what to say of it.

    torchrun and job operators set RANK, WORLD_SIZE and MASTER_ADDR together; WORLD_SIZE alone was left over by something.
    """
    text = environ.get("WORLD_SIZE", "1")
    missing = [name for name in ("RANK", "MASTER_ADDR") if name not in environ]
    if text == "1" or not missing:
        return None
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        environ.pop(name, None)
    return f"WORLD_SIZE={text} of the environment is ignored, without {' and '.join(missing)}"


def launch(argv: list[str], *, nproc: int, device: str, trainer: str) -> int:
    """Run the trainer with this command line and return its exit status.

    Args:
        nproc: processes on this machine; ignored under `srun`, which starts one per task.
        device: "auto", "cpu" or "cuda".
        trainer: name of the module whose `main(argv)` trains and returns the exit status, whose `before_forks()` imports.
    """
    environ = os.environ
    argv = [*argv, f"--meap-device={device}"]
    runtime.set_thread_policy()
    settings = of_command_line(argv)
    environ.update(environment.defaults(settings, environ))  # before the driver starts, to count GPUs
    if (note := forget_leftovers(environ)) is not None:
        print(f"note: {note}", file=sys.stderr, flush=True)
    # SLURM_STEP_ID tells a task of srun from the batch script itself, which has a SLURM_PROCID too.
    if "SLURM_STEP_ID" in environ and int(environ.get("SLURM_NTASKS", "1")) > 1 and "RANK" not in environ:
        if nproc > 1:
            raise UserError(f"nproc={nproc} inside srun with {environ['SLURM_NTASKS']} tasks", fix="leave nproc out")
        host = first_slurm_host(environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"])
        environ.update(slurm_environment(environ, host))
    tracking = wandb_run.environment(settings, environ)
    environ.update(tracking)
    if tracking.get("WANDB_MODE") == "offline":
        note = "W&B finds no API key, so this run is logged offline: `wandb login` before the run, or `wandb sync` after it"
        print(f"note: {note}", file=sys.stderr, flush=True)
    argv = slurm_time_limit.end_in_order(argv)
    already_a_rank = int(environ.get("WORLD_SIZE", "1")) > 1
    processes = 1 if already_a_rank else number_of_processes(nproc, runtime.resolve_device(device))
    if processes == 1:
        return importlib.import_module(trainer).main(argv)
    return run_ranks(argv, processes=processes, device=runtime.resolve_device(device), trainer=trainer)


def run_ranks(argv: list[str], *, processes: int, device: str, trainer: str) -> int:
    """Start the ranks, pass SIGTERM and SIGINT on to them, and stop all when one fails.

    On a CPU, Megatron is imported once and the ranks are forked from this process: 8 ranks cost one import, not eight.
    With a GPU every rank is a program of its own, as CUDA wants it.

    Not torchrun: that adds seconds of start-up, buries the message of the rank that failed under its own report, and
    kills ranks 30 s after a signal, whether or not they are still writing a checkpoint.

    Raises:
        RunError: a rank failed; names it and this host.
    """
    port = runtime.free_port()
    environments = [rank_environment(rank, world=processes, port=port) for rank in range(processes)]
    if device == "cpu":
        # Finds most faults of the input in half a second, and runs that are complete, before Megatron is imported.
        done = resume.finished(of_command_line([*argv, *data_flags(argv)]))
        if done is not None:
            print(done, flush=True)
            return 0
        importlib.import_module(trainer).before_forks()
    with no_orphans():
        ranks: list[Rank]
        if device == "cpu":
            ranks = [ForkedRank(argv, environment, trainer=trainer) for environment in environments]
        else:
            command = [sys.executable, "-m", trainer, *argv]
            # What a process ignores, the programs that it starts ignore too.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            ranks = [subprocess.Popen(command, env=os.environ | environment) for environment in environments]
            signal.signal(signal.SIGINT, handler)
        failed = watch(ranks)
    if failed is None:
        return 0
    status = ranks[failed].poll() or 0
    if status == UserError.exit_status:
        return status
    if status in (-signal.SIGTERM, TOLD):
        save = of_command_line(argv).get("save")
        raise RunError(f"the run was told to end (SIGTERM) before it could save; {saved(save)}")
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    raise RunError(f"rank {failed} of {processes} on {socket.gethostname()} {how}; the other ranks were stopped")


def watch(ranks: Sequence[Rank]) -> int | None:
    """Tell the ranks to end until all have ended well (None), or one has not (its number) and the others are stopped.

    Ranks ignore SIGINT, which a terminal sends to them as well: the first Ctrl+C becomes one SIGTERM, at which a run with a
    `save` folder saves; the second ends them at once.

    Raises:
        KeyboardInterrupt: after a SIGINT, a rank did not end well.
    """
    interrupted: list[int] = []

    def pass_on(received: int, frame: object) -> None:
        number = signal.SIGTERM
        if received == signal.SIGINT:
            if interrupted:
                number = signal.SIGKILL
            else:
                print("\nmeap: ending the run; Ctrl+C once more ends it at once", file=sys.stderr, flush=True)
            interrupted.append(received)
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        failed = first_failure(ranks)
        if failed is not None:
            stop(ranks)
            if interrupted:
                raise KeyboardInterrupt
        return failed
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for process in ranks:
            if process.poll() is None:
                process.kill()


def first_failure(ranks: Sequence[Rank]) -> int | None:
    """Wait until all ranks have ended well (None) or one has not (its number).

    A rank that was killed goes before those that then failed because they lost it.
    """
    while True:
        if any(process.poll() not in (None, 0) for process in ranks):
            states = {rank: process.poll() for rank, process in enumerate(ranks)}
            return min((rank for rank, state in states.items() if state), key=lambda rank: (states[rank] or 0) > 0)
        if all(process.poll() == 0 for process in ranks):
            return None
        time.sleep(0.05)


def stop(ranks: Sequence[Rank]) -> None:
    """End ranks that still run: let them finish what they say, then SIGTERM, then SIGKILL."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        running = [process for process in ranks if process.poll() is None]
        if number is not None:
            for process in running:
                process.send_signal(number)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(0.05)
