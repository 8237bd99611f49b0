"""A real SLURM of two nodes on this machine, in a folder of its own, that leaves nothing behind.

munged, slurmctld and two slurmd run under this user with their own configuration, ports, key, state and logs, so that a
SLURM that is installed here already is not touched. The nodes are called 127.0.0.1 and 127.0.0.2, names that Linux resolves
without being told, so that ranks find each other by node name as on a cluster.
"""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
PACKAGES = ("slurm-wlm", "munge")
NODES = ("127.0.0.1", "127.0.0.2")

CONFIGURATION = """\
ClusterName=meaptest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits cred_expire seconds before it starts again; SLURM takes no less than 5.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
# Processes are found and ended through /proc; nothing needs a cgroup, systemd or MPI.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
FirstJobId={first_job}
KillWait=30
ReturnToService=2
NodeName=127.0.0.[1-2] NodeHostname={host} Port=[{node_port}-{last_port}] CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def install() -> None:
    """Install what is missing with Debian's package manager, as root; else end with what to do."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"slurm-test: {', '.join(missing)} missing; as root: apt-get install {' '.join(PACKAGES)}")
    print(f"slurm-test: installing {' '.join(PACKAGES)}", flush=True)
    # RUNLEVEL=1 keeps the packages from starting daemons of their own.
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        subprocess.run(["apt-get", "-qq", *words], env=environ, stdout=subprocess.DEVNULL, check=True)


def free_ports(count: int) -> int:
    """Return the first of `count` neighbouring ports that nobody uses, below the range that Linux gives to clients."""
    while True:
        first = random.randrange(10_000, 19_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return first


class Cluster:
    """The daemons and their folder; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meap-slurm-"))
        self.folder.chmod(0o755)
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environ = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> "Cluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Write the configuration, start the daemons and wait until both nodes take jobs."""
        folder, host = self.folder, socket.gethostname().split(".")[0]
        for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
            (folder / name).mkdir(parents=True, mode=0o755)
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(random.SystemRandom().randbytes(1024))
        port = free_ports(3)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=folder,
                host=host,
                user=self.run("id", "-un"),
                port=port,
                node_port=port + 1,
                last_port=port + 2,
                first_job=random.randrange(1000, 60_000),
            )
        )
        # Left to choose, slurmd 22.05 fails on a machine with cgroup v2 and no systemd.
        version = re.search(r"(\d+)\.(\d+)", self.run("slurmd", "-V"))
        assert version is not None
        plugin = "disabled" if (int(version[1]), int(version[2])) >= (23, 11) else "cgroup/v1"
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")

        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "seed-file": "munge.seed",
        }
        self.daemon("munged", "--foreground", *(f"--{option}={folder / name}" for option, name in files.items()))
        self.wait_for("munged", lambda: (folder / "munge.socket").exists())
        self.daemon("slurmctld", "-D")
        for node in NODES:
            self.daemon("slurmd", "-D", "-N", node)
        self.wait_for("slurmctld and slurmd", lambda: self.run("sinfo", "-h", "-o", "%D %t", check=False) == "2 idle")

    def daemon(self, *words: str) -> None:
        """Start a daemon in the foreground; its output goes to the folder's log."""
        with (self.folder / "log" / f"{words[0]}-{len(self.daemons)}.out").open("wb") as out:
            self.daemons.append(
                subprocess.Popen(list(words), env=self.environ, stdout=out, stderr=out, start_new_session=True)
            )

    def wait_for(self, what: str, done: Callable[[], bool], *, seconds: float = 30) -> None:
        """Wait for `done`; if it does not come true or a daemon ends, fail with the end of the logs."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in self.daemons):
                tails = [
                    f"{path.name}: {path.read_text(errors='replace')[-600:]}"
                    for path in (self.folder / "log").iterdir()
                ]
                raise RuntimeError(f"{what} did not start in {seconds} s\n" + "\n".join(tails))
            time.sleep(0.2)

    def run(
        self, *words: str | Path, check: bool = True, cwd: Path | None = None, environ: dict[str, str] | None = None
    ) -> str:
        """Run a program with this cluster's configuration and return what it printed."""
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environ | (environ or {}),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stdout}")
        return done.stdout.strip()

    def processes(self) -> dict[int, dict[str, str]]:
        """Return pid -> environment of every process that belongs to a job of this cluster, or to its daemons."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            environ = dict(word.split("=", 1) for word in words if "=" in word)
            if environ.get("SLURM_CONF") == self.environ["SLURM_CONF"]:
                found[int(entry.name)] = environ
        return found

    def tasks(self, job: str) -> dict[int, int]:
        """Return rank -> pid of the running tasks of a job."""
        return {
            int(environ["SLURM_PROCID"]): pid
            for pid, environ in self.processes().items()
            if environ.get("SLURM_JOB_ID") == job
            and "SLURM_STEP_ID" in environ
            and environ.get("SLURM_TASK_PID") == str(pid)
        }

    def stop(self) -> None:
        """Cancel all jobs, stop the daemons, kill what is left of either, and remove the folder."""
        if len(self.daemons) > 1:
            self.run("scancel", "--state=PENDING", check=False)
            self.run("scancel", "--state=RUNNING", check=False)
            for pid in self.processes():  # a paused task cannot end
                send(pid, signal.SIGCONT)
            deadline = time.monotonic() + 20
            while self.run("squeue", "-h", check=False) and time.monotonic() < deadline:
                time.sleep(0.3)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            send(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
