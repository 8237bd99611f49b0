"""One run in one `save` folder: `SAVE/run.lock` names the process that has it, and a dead process loses it.

Two things say that the owner lives, because neither is enough:

* a POSIX lock on the file. The kernel releases it when the process dies, however it dies, and forked loader workers do not
  inherit it. On one machine, and on NFS, where it is a lock of the server, that is all it takes. But on some mounts such
  locks are of one machine only (Lustre's localflock, NFS with nolock) or do not exist.
* a sign of life: the time of the file, renewed every `BEAT_SECONDS`. It is compared with the time of a new file in the
  same folder, so that only the file server's clock counts. An owner on another machine that gave none for
  `LEASE_SECONDS` is dead.

An owner that is another start of the same SLURM job, or of a job that SLURM no longer runs, is dead without waiting.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError

NAME = "run.lock"
BEAT_SECONDS = float(os.environ.get("MEAP_LOCK_BEAT", "10"))
LEASE_SECONDS = float(os.environ.get("MEAP_LOCK_LEASE", "180"))
"""Longer than anything that keeps the thread from renewing the time, such as building an index."""
SETTLE_SECONDS = 2.0


def boot_id() -> str:
    """Return what names this machine since it was started; the host name where the kernel does not tell."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def start_time(pid: int) -> str | None:
    """Return when a process of this machine started, in the kernel's ticks; None if there is no such process."""
    try:
        # The name of the program, in parentheses, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def own_card() -> dict[str, Any]:
    """Return what this process writes into the lock."""
    environ = os.environ
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot": boot_id(),
        "started": start_time(os.getpid()),
        "slurm_job": environ.get("SLURM_JOB_ID"),
        "slurm_restart": environ.get("SLURM_RESTART_COUNT", "0"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


class RunLock:
    """The lock of one `save` folder; `acquire` it before anything of the run is read or written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None
        self._made: list[Path] = []
        self._stop = threading.Event()

    def acquire(self, show: Callable[[str], None] = print) -> None:
        """Take the lock, from a dead owner too.

        Args:
            show: is told when an owner on another machine has to be watched for a while.

        Raises:
            UserError: another run has it, or the folder cannot be written.
        """
        folder = self.path.parent
        around = (folder, *folder.parents)
        if (file := next((path for path in around if path.is_file()), None)) is not None:
            raise UserError(
                f"save={folder}: {file} is a file", fix="name a folder, a new one or that of the run to continue"
            )
        self._made = [path for path in around if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            while self._descriptor is None:
                self._try(show)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}", fix="set save to a folder that can be written"
            ) from None
        threading.Thread(target=self._beat, name="run-lock", daemon=True).start()

    def _try(self, show: Callable[[str], None]) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            locked = lock(descriptor)
            owner = read_card(descriptor)
            if locked is False or not self._is_free(owner, descriptor, locked=bool(locked), show=show):
                raise UserError(self._refusal(owner))
            with contextlib.suppress(FileNotFoundError):
                # An owner that ends removes the file: what was locked here may be no longer the one with this name.
                if os.stat(self.path).st_ino == os.fstat(descriptor).st_ino:
                    text = json.dumps(own_card()).encode()
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, text, 0)
                    os.fsync(descriptor)
                    if owner is not None and not locked:
                        # Without locks, two may find the same owner dead at once: the last to write has it.
                        time.sleep(SETTLE_SECONDS)
                        if os.pread(descriptor, 4096, 0) != text:
                            raise UserError(self._refusal(read_card(descriptor)))
                    self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)

    def _is_free(
        self, owner: dict[str, Any] | None, descriptor: int, *, locked: bool, show: Callable[[str], None]
    ) -> bool:
        """Tell whether the owner on the file is dead; waits for a sign of one on another machine."""
        if owner is None:
            return True
        mine = own_card()
        if owner.get("boot") == mine["boot"]:
            return locked or start_time(int(owner.get("pid", 0))) != owner.get("started")
        if job_has_ended(owner, mine):
            return True
        first = silence(descriptor, self.path)
        if first < LEASE_SECONDS:
            show(
                f"meap: {self.path} is of process {owner.get('pid')} on {owner.get('host')}, whose last sign of life is "
                f"{first:.0f} s old; it is taken over if none comes until {LEASE_SECONDS:.0f} s"
            )
        while (age := silence(descriptor, self.path)) < LEASE_SECONDS:
            if age < first - 1:
                return False
            first = age
            time.sleep(min(1.0, BEAT_SECONDS / 4))
        return True

    def _refusal(self, owner: dict[str, Any] | None) -> str:
        who = "another process" if owner is None else f"process {owner.get('pid')} on {owner.get('host')}"
        since = f" since {owner['since']}" if owner and owner.get("since") else ""
        return (
            f"{self.path.parent} is used by another run: {who}{since} ({self.path}); wait for its end, stop it, or give "
            "this run a folder of its own (save=FOLDER)"
        )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            descriptor = self._descriptor
            if descriptor is None:
                return
            with contextlib.suppress(OSError):  # a moment without the file server is not the end of the run
                os.utime(descriptor)

    def release(self) -> None:
        """Give the lock up, and remove folders that were made for it and are empty; nothing happens if it was not taken."""
        self._stop.set()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == os.fstat(descriptor).st_ino:
                self.path.unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):  # the run wrote something
            for folder in self._made:
                folder.rmdir()


def lock(descriptor: int) -> bool | None:
    """Lock a file; False: another process has it locked; None: this file system has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def read_card(descriptor: int) -> dict[str, Any] | None:
    """Return what the owner wrote; None if there is nothing or it is torn, as by a process that died at once."""
    try:
        card = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return None
    return card if isinstance(card, dict) else None


def silence(descriptor: int, path: Path) -> float:
    """Return the seconds since the last sign of life, by the clock of the file server.

    Args:
        descriptor: of the lock; opening and closing the file once more would give up this process's lock on it.
    """
    probe = path.with_name(f".{NAME}.{socket.gethostname()}.{os.getpid()}")
    try:
        with probe.open("w") as file:
            now = os.fstat(file.fileno()).st_mtime
        lock(descriptor)  # asks the server, where `fstat` alone may answer from memory
        return now - os.fstat(descriptor).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def job_has_ended(owner: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Tell whether SLURM knows that the owner is dead: its job was started again as this one, or runs no longer."""
    job = owner.get("slurm_job")
    if job is None:
        return False
    if job == mine["slurm_job"]:
        return bool(owner.get("slurm_restart") != mine["slurm_restart"])
    if shutil.which("squeue") is None:
        return False
    command = ["squeue", "--noheader", "--jobs", str(job), "--format=%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    if done.returncode != 0:
        return "Invalid job id" in done.stderr
    return not done.stdout.strip()
