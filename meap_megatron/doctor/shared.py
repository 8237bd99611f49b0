"""Whether a folder is shared: does a file that one task writes appear at the others, whole, and does a lock hold them off?

Task r of N writes a token under its final name by a rename, then waits for the tokens of all. Task 0 holds a lock from
before its token appears until all others have tried to take it; a task that succeeds has found locks that do not reach
from host to host, on which the index cache and `preprocess --resume` rely.

Given   srun with 3 tasks on hosts a, a, b, where b has a folder of its own under the same name
Then    tasks 0 and 1 see tokens 0 and 1 and miss task 2; task 2 sees only its own and misses tasks 0 and 1.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.atomic import replace_text
from meap_megatron.doctor.finding import BROKEN, DIFFERS, NEEDED, Finding
from meap_megatron.errors import RunError

WAIT = 60.0  # seconds for the other tasks' tokens; by default NFS keeps the listing of a folder for 30 to 60 s
SLOW = 10.0  # seconds after which a shared folder is called slow
COST = "runs on several nodes cannot find the data, the index or each other's checkpoints there"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One process of a job step; a process without SLURM is task 0 of 1."""

    rank: int
    tasks: int
    meeting: str
    """Name of the folder in which the tasks of one step meet, and no others."""
    host: str

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Task":
        """Read the task from SLURM's variables."""
        numbers = [environment.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        # Only srun sets it; an sbatch script has SLURM_NTASKS and SLURM_PROCID too.
        in_step = "SLURM_STEP_NUM_TASKS" in environment
        return cls(
            rank=int(environment.get("SLURM_PROCID", "0")) if in_step else 0,
            tasks=int(environment.get("SLURM_STEP_NUM_TASKS", "1")),
            meeting=".meap-doctor-" + ("-".join(numbers) if in_step else f"{socket.gethostname()}-{os.getpid()}"),
            host=socket.gethostname(),
        )


def finding(folder: Path, *, task: Task, wait: float = WAIT) -> Finding:
    """Return what this task sees of the shared folder; the name says which task on which host it is.

    Args:
        folder: must be there already: a folder that is made where it should have been mounted hides the mistake.
        wait: seconds for the other tasks.
    """
    place = f"{folder} from {task.host}" + (f", task {task.rank} of {task.tasks}" if task.tasks > 1 else "")
    if not folder.is_dir():
        return _broken(place, "is not a folder here", fix=f"mkdir -p {folder}    or mount it on every node")
    meeting = folder / task.meeting
    try:
        meeting.mkdir(exist_ok=True)
        with hold(meeting / "lock") if task.rank == 0 else contextlib.nullcontext(True) as held:
            if not held:
                return _broken(place, "a lock cannot be taken", fix="mount it with locks (NFS: without `nolock`)")
            return _meet(place, meeting, task=task, wait=wait)
    except (OSError, RunError) as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        return _broken(place, f"cannot be written: {reason}", fix=f"ls -ld {folder}; df -h {folder}")
    finally:
        if task.rank == 0:
            shutil.rmtree(meeting, ignore_errors=True)


def _meet(place: str, meeting: Path, *, task: Task, wait: float) -> Finding:
    """Exchange the tokens, try the lock, wait until the others have done so."""
    begun = time.monotonic()
    card = json.dumps({"host": task.host, "rank": task.rank})
    replace_text(meeting / f"task-{task.rank}.json", card, shared=True)
    hosts = gather(meeting, "task", task=task, until=begun + wait)
    seconds = time.monotonic() - begun
    if missing := sorted(set(range(task.tasks)) - set(hosts)):
        listed = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        return _broken(
            place,
            f"no file of task {listed} appeared within {wait:g} s; seen: {', '.join(sorted(set(hosts.values())))}",
            fix="srun --ntasks-per-node=1 df -h "
            + str(meeting.parent)
            + "    shows on which node it is another folder",
        )
    kept = lock_is_kept(meeting / "lock") if task.rank or task.tasks == 1 else True
    replace_text(meeting / f"done-{task.rank}.json", card, shared=True)
    if task.rank == 0:
        gather(meeting, "done", task=task, until=time.monotonic() + wait)
    if not kept:
        return _broken(place, "a lock of task 0 does not hold", fix="mount it with locks (NFS: without `nolock`)")
    num_hosts = len(set(hosts.values()))
    seen = f"; files of {task.tasks} tasks on {num_hosts} hosts after {seconds:.1f} s" if task.tasks > 1 else ""
    slow = seconds > SLOW and task.tasks > 1
    free = shutil.disk_usage(meeting.parent).free / 2**30
    return Finding(
        name="shared folder",
        group=NEEDED,
        state=DIFFERS if slow else "ok",
        detail=f"{place}: {free:.0f} GiB free, rename and lock work{seen}",
        cost="ranks wait for each other's files" if slow else "",
        fix="mount with a shorter actimeo" if slow else "",
    )


def gather(meeting: Path, kind: str, *, task: Task, until: float) -> dict[int, str]:
    """Return the hosts of the tasks whose file of this kind is there, by rank; wait for all of them until a moment."""
    hosts: dict[int, str] = {}
    while True:
        for rank in set(range(task.tasks)) - set(hosts):
            with contextlib.suppress(FileNotFoundError):
                hosts[rank] = json.loads((meeting / f"{kind}-{rank}.json").read_text(encoding="utf-8"))["host"]
        if len(hosts) == task.tasks or time.monotonic() > until:
            return hosts
        time.sleep(0.05)
        os.listdir(meeting)  # makes an NFS client ask its server again


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Take a lock and keep it for the block; yield whether it could be taken."""
    with open(path, "w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def lock_is_kept(path: Path) -> bool:
    """Tell whether another process is refused a lock that somebody holds.

    A process of its own, because over NFS the locks of one process do not exclude each other.
    """
    code = (
        "import fcntl, sys\n"
        "stream = open(sys.argv[1], 'r+')\n"
        "try: fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError: sys.exit(75)\n"
    )
    return subprocess.run([sys.executable, "-c", code, path], timeout=60, check=False).returncode == 75


def _broken(place: str, problem: str, *, fix: str) -> Finding:
    return Finding(name="shared folder", group=NEEDED, state=BROKEN, detail=f"{place}: {problem}", cost=COST, fix=fix)
