"""What SLURM says of a job, and which run it is: `scontrol show job`, read as text, which every version prints alike."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.errors import RunError, UserError

WHOLE_LINE = ("Command", "WorkDir", "StdErr", "StdIn", "StdOut", "Comment", "SubmitLine")
"""Fields whose values may hold blanks and "="; scontrol prints each on a line of its own."""

WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SUSPENDED",
    "SPECIAL_EXIT",
    "RESIZING",
)
BAD_ENDS = ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """One job."""

    job: str
    state: str
    """SLURM's word, such as RUNNING."""
    reason: str
    """Why it waits or ended; "" for none."""
    restarts: int
    nodes: str
    ends: str
    """When its time is over, as SLURM prints it."""
    output: str
    exit_code: str
    run: str | None
    """The folder of `save=`; None: its command does not say it."""

    @property
    def waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state in WAITING

    @property
    def ended_badly(self) -> bool:
        """Whether it is over by no wish of the user's."""
        return self.state in BAD_ENDS


def find_job(job: str) -> SlurmJob:
    """Ask SLURM.

    Raises:
        UserError: there is no such job (SLURM forgets a job some minutes after its end), or no scontrol.
        RunError: SLURM does not answer.
    """
    if not re.fullmatch(r"[0-9]+(_[0-9]+)?", job):
        raise UserError(f"--job {job} must be a job number, for example 123456 or 123456_7")
    try:
        done = subprocess.run(
            ["scontrol", "show", "job", job], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UserError(
            "--job needs scontrol, which is not on the path", fix="name the `save` folder of the run"
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError(f"scontrol show job {job} did not answer within {TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode != 0:
        output = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        if "Invalid job id" in done.stderr:
            raise UserError(
                f"SLURM knows no job {job} ({output}); it forgets jobs some minutes after their end",
                fix="name the `save` folder",
            )
        raise RunError(f"scontrol show job {job}: {output}")
    return read_job(job, done.stdout)


def read_job(job: str, text: str) -> SlurmJob:
    """Read the first job of scontrol's answer.

    Args:
        text: lines of `Key=value` pairs; a blank line ends a job.

    Raises:
        RunError: the answer holds no job.
    """
    fields: dict[str, str] = {}
    for line in text.strip().split("\n\n")[0].splitlines():
        first, _, rest = line.strip().partition("=")
        if first in WHOLE_LINE:
            fields[first] = rest
        else:
            fields |= {field.partition("=")[0]: field.partition("=")[2] for field in line.split() if "=" in field}
    if "JobState" not in fields:
        raise RunError(f"scontrol show job {job} answered {text.strip()[:200]!r}, in which there is no JobState")
    return SlurmJob(
        job=job,
        state=fields["JobState"],
        reason="" if fields.get("Reason", "None") == "None" else fields["Reason"],
        restarts=int(fields.get("Restarts", 0)),
        nodes="" if fields.get("NodeList") in (None, "(null)") else fields["NodeList"],
        ends=fields.get("EndTime", ""),
        output=fields.get("StdOut", ""),
        exit_code=fields.get("ExitCode", ""),
        run=save_folder(fields.get("Command", ""), fields.get("WorkDir", "")),
    )


def save_folder(command: str, workdir: str) -> str | None:
    """Return the folder that the last `save=` of a job's command names; a relative one is in its working folder."""
    try:
        arguments = shlex.split(command)
    except ValueError:  # scontrol prints arguments without their quotes
        arguments = command.split()
    saves = [argument.removeprefix("save=") for argument in arguments if argument.startswith("save=")]
    return str(Path(workdir) / saves[-1]) if saves else None
