"""A run that is told to end saves first, and in a SLURM job it ends before the time limit.

Megatron saves and exits at SIGTERM (`--exit-signal-handler`), asked once per step and never within an evaluation, and after
a number of whole minutes (`--exit-duration-in-mins`), asked within evaluations too. Both are set from what SLURM says of
the job, so that no recipe has to know how long the job may run.
"""

import os
import time
from collections.abc import Mapping

from meap_megatron.errors import UserError
from meap_megatron.launch.named_settings import Settings, of_command_line

DEFAULT_MARGIN = 300.0
"""Seconds before the end of the job at which the run saves, unless a quarter of the time left is less."""


def job_flags(settings: Settings, environ: Mapping[str, str], *, now: float) -> list[str]:
    """Return the flags that let a run end in order, in a SLURM job before its time limit too; none without a `save` folder.

    Args:
        settings: of the run; a shorter `exit_duration_in_mins` of its own is kept.
        environ: SLURM_JOB_ID, SLURM_JOB_END_TIME (seconds since 1970) and MEAP_EXIT_MARGIN (seconds) are read.
        now: seconds since 1970.

    Raises:
        UserError: MEAP_EXIT_MARGIN is not a number of seconds.
    """
    if not settings.has("save"):
        return []
    flags = [] if settings.on("exit_signal_handler") else ["--exit-signal-handler"]
    if "SLURM_JOB_ID" not in environ:
        return flags
    minutes = minutes_to_run(environ, now=now)
    given = settings.whole("exit_duration_in_mins")
    if minutes is not None and not (given is not None and given <= minutes):
        flags.append(f"--exit-duration-in-mins={minutes}")
    return flags


def minutes_to_run(environ: Mapping[str, str], *, now: float) -> int | None:
    """Return the whole minutes after which to save and exit; None: the end is not known, or less than a minute is left.

    Within the last minute only the signal that SLURM sends before the limit (`sbatch --signal`) remains.
    """
    end = environ.get("SLURM_JOB_END_TIME", "")
    if not end.isdecimal():
        return None
    left = int(end) - now
    minutes = int((left - margin_seconds(environ, left)) // 60)
    return minutes if minutes >= 1 else None


def margin_seconds(environ: Mapping[str, str], left: float) -> float:
    """Return how long before the end to save: MEAP_EXIT_MARGIN, or 300 s but at most a quarter of the `left` seconds."""
    text = environ.get("MEAP_EXIT_MARGIN", "")
    if not text:
        return min(DEFAULT_MARGIN, left / 4)
    if not text.isdecimal():
        raise UserError(f"MEAP_EXIT_MARGIN={text} must be a whole number of seconds, for example 300")
    return float(text)


def announcement(flags: list[str], environ: Mapping[str, str], *, now: float) -> str | None:
    """Return what to say of the flags of `job_flags`, or None if they hold no time."""
    minutes = next((flag.partition("=")[2] for flag in flags if flag.startswith("--exit-duration-in-mins=")), None)
    if minutes is None:
        return None
    stop = time.strftime("%H:%M:%S", time.localtime(now + 60 * int(minutes)))
    end = time.strftime("%H:%M:%S", time.localtime(int(environ["SLURM_JOB_END_TIME"])))
    return f"meap: job {environ['SLURM_JOB_ID']} ends at {end}; this run saves and stops after {stop}"


def end_in_order(argv: list[str]) -> list[str]:
    """Return `argv` with the flags of `job_flags` for this process; rank 0 says when the run will stop."""
    now = time.time()
    flags = job_flags(of_command_line(argv), os.environ, now=now)
    text = announcement(flags, os.environ, now=now)
    if text and os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
    return [*argv, *flags]
