"""`meap status`: the progress of a run, and whether something is wrong with it."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meap_megatron.monitoring.slurm import SlurmJob
    from meap_megatron.monitoring.status import Status

HELP = """Show the progress of a run: step, loss, speed, time left, last checkpoint, restarts, alerts.

  meap status runs/mine
  meap status runs/mine --watch                      drawn again every 10 s, until the run ends or an alert comes
  meap status --job 123456                           the run of a SLURM job (its command says save=FOLDER)
  meap status runs/mine --json                       for scripts
  meap status runs/mine --watch > /dev/null; echo $?

Exit status: 0 nothing is wrong; 1 and 2 as for every verb (SLURM does not answer; no such run); the worst alert:
  3  nan       a loss of the newest 100 steps, a gradient norm or the newest validation loss is not finite
  4  failed    the run, or its job, ended by an error
  5  stalled   it has not ended, and nothing was written for 10 minutes or 20 steps, whichever is longer
  6  spike     a loss of the newest 100 steps spiked
Reads DIR/metrics.jsonl and the names, sizes and manifests of the checkpoints; changes nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", nargs="?", metavar="DIR", help="the `save` folder of a run, or its metrics.jsonl")
    parser.add_argument("--job", metavar="ID", help="ask SLURM which run this is and what the job does")
    parser.add_argument("--watch", action="store_true", help="draw again until the run ends or an alert comes")
    parser.add_argument(
        "--every", type=float, default=10.0, metavar="SECONDS", help="between two drawings of --watch (default: 10)"
    )
    parser.add_argument(
        "--stalled-after", type=float, metavar="SECONDS", help="silence that is an alert (default: 600, or 20 steps)"
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        choices=("nan", "failed", "stalled", "spike"),
        help="leave out an alert; may be given more than once",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with --watch one a line")


def run(args: argparse.Namespace) -> int:
    """Print the status, once or until the run ends."""
    from meap_megatron.errors import UserError

    if (args.run is None) == (args.job is None):
        raise UserError("the run is not named, or twice", fix="name its `save` folder, or --job ID of its SLURM job")
    for name, seconds in (("--every", args.every), ("--stalled-after", args.stalled_after)):
        if seconds is not None and not seconds > 0:
            raise UserError(f"{name} {seconds:g} must be more than 0 seconds")
    while True:
        job, status = examine(args)
        show(args, job, status)
        if not args.watch or over(job, status):
            return code(job, status, args.ignore)
        time.sleep(args.every)


def examine(args: argparse.Namespace) -> "tuple[SlurmJob | None, Status | None]":
    """Ask SLURM and read the run; a job that waits for its first start has no run yet."""
    from meap_megatron.errors import UserError
    from meap_megatron.monitoring.slurm import find_job
    from meap_megatron.monitoring.status import look

    job = find_job(args.job) if args.job else None
    if job is not None and job.run is None:
        raise UserError(f"the command of job {job.job} has no save=FOLDER", fix="name the folder: meap status FOLDER")
    folder = Path(args.run if job is None else str(job.run))
    waiting = job is not None and job.waiting
    if job is not None and not (folder / "metrics.jsonl").is_file():
        return job, None
    found = look(folder, now=time.time(), stalled_after=args.stalled_after, waiting=waiting, ignore=args.ignore)
    return job, found


def show(args: argparse.Namespace, job: "SlurmJob | None", status: "Status | None") -> None:
    """Print one status."""
    import json
    import sys
    from dataclasses import asdict

    from meap_megatron.monitoring.screen import job_lines, lines

    if args.json:
        found = status.as_json() if status else {}
        content = found | ({"job": asdict(job)} if job else {}) | {"exit_status": code(job, status, args.ignore)}
        print(json.dumps(content), flush=True)
        return
    if args.watch and sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")
    text = [*(job_lines(job) if job else []), *(lines(status) if status else ["  nothing was written yet"])]
    print("\n".join(text), flush=True)


def over(job: "SlurmJob | None", status: "Status | None") -> bool:
    """Tell whether there is nothing more to watch."""
    if status is not None and status.exit_status:
        return True
    if job is not None:
        return not job.waiting and job.state not in ("RUNNING", "COMPLETING")
    return status is not None and status.state in ("finished", "stopped", "failed", "stalled")


def code(job: "SlurmJob | None", status: "Status | None", ignore: list[str]) -> int:
    """Return the exit status: that of the run, and "failed" for a job that ended badly before its run was finished."""
    from meap_megatron.monitoring.alerts import EXIT_STATUS

    found = status.exit_status if status else 0
    finished = status is not None and status.state == "finished"
    if job is not None and job.ended_badly and not finished and "failed" not in ignore:
        return min(found or EXIT_STATUS["failed"], EXIT_STATUS["failed"])
    return found
