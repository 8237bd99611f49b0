"""One run, one fault at a random moment, the same command again: the losses of an uninterrupted run, or a clear error.

A trial trains 30 steps on two ranks through `meap train`, saves every 10 and validates at 15. What makes it fail:
a step that differs from the uninterrupted run in one bit, a step that is missing, a process that outlives the run, a
message that does not name what happened, a checkpoint that was good before and is gone, or a run that does not end in time.
"""

import dataclasses
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import RECIPES, TINY, losses, start, train
from tests.support.warm import WarmProcess

STEPS, SAVE_EVERY, VALIDATE_AT = 30, 10, 15
SECONDS_TO_END = 60.0
"""Bound on the time that a run takes to end after a fault, start-up of nothing included."""
LAYOUTS = {
    "TP 2": ["nproc=2", "tensor_model_parallel_size=2", "micro_batch_size=4"],
    "DP 2": ["nproc=2", "use_distributed_optimizer=true", "micro_batch_size=4"],
}


@dataclasses.dataclass
class Trial:
    """What was done and how it ended."""

    fault: str
    layout: str
    moment: str = ""
    message: str = ""
    outcome: str = ""
    seconds: float = 0.0
    passed: bool = False


class Failure(AssertionError):
    """The promise that a trial tests does not hold."""


def expect(holds: object, what: str) -> None:
    """Fail the trial unless it holds."""
    if not holds:
        raise Failure(what)


class Workshop:
    """Data, the uninterrupted run of each layout, and a folder for the trials."""

    def __init__(self, root: Path, *, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        root.mkdir(parents=True, exist_ok=True)
        write_dataset(root, library_texts(600_000))
        for layout in LAYOUTS:
            train("tiny_cpu_meap.yaml", *self.settings(layout, root / layout, root / "data"))

    def settings(self, layout: str, save: Path, data: Path) -> list[str]:
        """Return the overrides of a run."""
        return [
            *TINY,
            "split=80,20,0",
            f"data_path={data}",
            f"save={save}",
            f"train_iters={STEPS}",
            f"save_interval={SAVE_EVERY}",
            f"eval_interval={VALIDATE_AT}",
            "eval_iters=4",
            "exit_signal_handler=true",
            *LAYOUTS[layout],
        ]

    def try_once(self, fault: str) -> Trial:
        """Run one trial of a kind."""
        trial = Trial(fault, self.random.choice(list(LAYOUTS)))
        begun = time.monotonic()
        folder = self.root / f"trial-{time.monotonic_ns()}"
        folder.mkdir()
        run = Run(self, folder, trial)
        try:
            FAULTS[fault](run)
            trial.passed = True
        except (Failure, AssertionError, subprocess.TimeoutExpired) as error:
            trial.outcome = f"FAILED: {error}"
        finally:
            run.clean_up()
        trial.seconds = time.monotonic() - begun
        return trial


class Run:
    """The run of one trial: starting it, waiting, watching it end."""

    def __init__(self, workshop: Workshop, folder: Path, trial: Trial) -> None:
        self.workshop, self.folder, self.trial, self.random = workshop, folder, trial, workshop.random
        self.save, self.data = folder / "run", workshop.root / "data"
        self.process: WarmProcess | None = None
        self.mount: Path | None = None

    def start(self) -> WarmProcess:
        """Start the command in the background."""
        words = self.workshop.settings(self.trial.layout, self.save, self.data)
        self.process = start("train", RECIPES / "tiny_cpu_meap.yaml", *words, "device=cpu")
        return self.process

    def wait_for_step(self, step: int) -> None:
        """Wait until a step is in the metrics, and a random moment more."""
        self.wait_until(lambda: max(self.steps(), default=0) >= step, f"step {step}")
        time.sleep(self.random.uniform(0.0, 0.1))
        self.trial.moment = f"after step {max(self.steps(), default=0)}"

    def wait_until(self, holds: Callable[[], bool], what: str, *, poll: float = 0.01) -> None:
        """Wait for something that the running command does."""
        deadline = time.monotonic() + 300
        while not holds():
            expect(time.monotonic() < deadline, f"{what} did not come in 300 s")
            expect(self.process and self.process.poll() is None, f"the run ended before {what}")
            time.sleep(poll)

    def steps(self) -> dict[int, float]:
        """Return the losses so far."""
        return losses(self.save) if (self.save / "metrics.jsonl").exists() else {}

    def ranks(self) -> list[int]:
        """Return the process ids of the ranks."""
        assert self.process is not None
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ended(self) -> tuple[int, str]:
        """Wait until the run has ended; return its status and message. Nothing of it may be left running."""
        process = self.process
        assert process is not None
        begun = time.monotonic()
        status = process.wait(SECONDS_TO_END)
        _, said = process.communicate()
        self.process = None
        while alive(process.pid):
            expect(time.monotonic() < begun + SECONDS_TO_END, f"processes of the run outlive it: {alive(process.pid)}")
            time.sleep(0.05)
        return status, said

    def goes_on_exactly(self) -> None:
        """Start the same command again and compare every step with the uninterrupted run, bit by bit."""
        good = self.good_checkpoints()
        words = self.workshop.settings(self.trial.layout, self.save, self.data)
        done = train("tiny_cpu_meap.yaml", *words)
        self.trial.message = self.trial.message or first_line(done.stdout, "good checkpoint|damaged|broken")
        for field in ("lm_loss", "masked_loss", "grad_norm"):
            got, expected = losses(self.save, field), losses(self.workshop.root / self.trial.layout, field)
            expect(sorted(got) == sorted(expected), f"steps {sorted(set(expected) - set(got))} are missing")
            parted = [step for step in sorted(expected) if got[step] != expected[step]]
            expect(not parted, f"{field} parts from the uninterrupted run at step {parted[:1]}")
        expect(good <= self.good_checkpoints(), f"checkpoints were lost: {good - self.good_checkpoints()}")
        self.trial.outcome = "went on exactly"

    def good_checkpoints(self) -> set[int]:
        """Return the steps whose checkpoint is whole."""
        from meap_megatron.checkpoint.check import inspect
        from meap_megatron.checkpoint.folder import iteration_folder, iterations

        return {step for step in iterations(self.save) if inspect(iteration_folder(self.save, step), "full").loadable}

    def refused(self, *patterns: str) -> None:
        """Start the same command and expect exit status 2 and a message with all the patterns."""
        words = self.workshop.settings(self.trial.layout, self.save, self.data)
        done = train("tiny_cpu_meap.yaml", *words, check=False)
        self.trial.message = first_line(done.stderr, "error")
        expect(done.returncode == 2, f"exit status {done.returncode} instead of 2: {done.stderr[-300:]}")
        for pattern in patterns:
            expect(re.search(pattern, done.stderr), f"the message does not say {pattern!r}: {done.stderr[-300:]}")
        expect("Traceback" not in done.stderr, "a traceback was shown")

    def clean_up(self) -> None:
        """End what still runs and give the disk back."""
        if self.process is not None:
            for number in (signal.SIGKILL,):
                for pid in alive(self.process.pid):
                    os.kill(pid, number)
        if self.mount is not None:
            subprocess.run(["umount", "--lazy", str(self.mount)], check=False)
        if self.trial.passed:
            shutil.rmtree(self.folder, ignore_errors=True)


def alive(group: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def first_line(text: str, pattern: str) -> str:
    """Return the first line in which a pattern stands, or ""."""
    return next((line for line in text.splitlines() if re.search(pattern, line)), "")


def stopped_at(run: Run, step: int) -> None:
    """Train and stop in good order at a step: `exit_interval`."""
    words = run.workshop.settings(run.trial.layout, run.save, run.data)
    train("tiny_cpu_meap.yaml", *words, f"exit_interval={step}")


def kill_one_rank(run: Run) -> None:
    """SIGKILL to one rank: the others are ended, the message names rank and host."""
    run.start()
    run.wait_for_step(run.random.randint(1, STEPS - 3))
    rank = run.random.choice([0, 1])
    os.kill(run.ranks()[rank], signal.SIGKILL)
    status, said = run.ended()
    run.trial.message = first_line(said, "error")
    expect(status == 1, f"exit status {status} instead of 1")
    # A rank may notice the loss of its neighbour and say so before the launcher looks.
    expect(
        f"rank {rank} of 2 on {socket.gethostname()} was ended by SIGKILL" in said, f"rank and host not named: {said}"
    )
    run.goes_on_exactly()


def kill_all(run: Run) -> None:
    """SIGKILL to launcher and ranks."""
    run.start()
    run.wait_for_step(run.random.randint(1, STEPS - 3))
    assert run.process is not None
    os.killpg(run.process.pid, signal.SIGKILL)
    run.ended()
    run.goes_on_exactly()


def terminate(run: Run) -> None:
    """SIGTERM to the launcher: a checkpoint of the step that was running, and a good end."""
    run.start()
    run.wait_for_step(run.random.randint(1, STEPS - 5))
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    status, said = run.ended()
    expect(status == 0, f"exit status {status} instead of 0: {said[-300:]}")
    expect(max(run.good_checkpoints(), default=0) == max(run.steps()), "no checkpoint of the last step was saved")
    run.trial.message = f"saved step {max(run.steps())}"
    run.goes_on_exactly()


def terminate_in_evaluation(run: Run) -> None:
    """SIGTERM while validation runs: it is finished, then the next step saves."""
    run.start()
    run.wait_until(lambda: max(run.steps(), default=0) >= VALIDATE_AT, f"step {VALIDATE_AT}", poll=0.002)
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    run.trial.moment = f"in the validation at step {VALIDATE_AT}"
    status, said = run.ended()
    expect(status == 0, f"exit status {status} instead of 0: {said[-300:]}")
    expect(max(run.good_checkpoints(), default=0) == max(run.steps()), "no checkpoint of the last step was saved")
    run.trial.message = f"saved step {max(run.steps())}"
    run.goes_on_exactly()


def kill_in_save(run: Run) -> None:
    """SIGKILL to all while a checkpoint is being written."""
    step = run.random.choice([10, 20, 30])
    target = run.save / f"iter_{step:07d}"
    run.start()
    run.wait_until(target.exists, f"the checkpoint of step {step}", poll=0.001)
    time.sleep(run.random.uniform(0.0, 0.5))
    assert run.process is not None
    os.killpg(run.process.pid, signal.SIGKILL)
    run.ended()
    run.trial.moment = f"in the save of step {step}" + (
        "" if step not in run.good_checkpoints() else ", just complete"
    )
    run.goes_on_exactly()


def disk_full(run: Run) -> None:
    """The disk fills up before a save: a message that says so; with room again, the run continues."""
    run.save.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(run.save)], check=True)
    run.mount = run.save
    run.start()
    run.wait_for_step(run.random.randint(11, 17))
    filler = run.save / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            pass
    status, said = run.ended()
    run.trial.message = first_line(said, "No space left")
    expect(status == 1, f"exit status {status} instead of 1")
    expect("No space left on device" in said, f"the cause is not named: {said[-300:]}")
    filler.unlink()
    run.goes_on_exactly()


def truncated_checkpoint(run: Run) -> None:
    """A file of the newest checkpoint is cut: it is named, kept, and the one before is used."""
    stopped_at(run, 20)
    files = sorted(p for p in (run.save / "iter_0000020").rglob("*") if p.is_file() and p.stat().st_size > 1)
    victim = run.random.choice(files)
    size = victim.stat().st_size
    cut = run.random.randint(1, min(size - 1, 4096))
    os.truncate(victim, size - cut)
    run.trial.moment = f"{victim.name} cut by {cut:,} bytes"
    run.goes_on_exactly()
    expect(victim.name in run.trial.message or "damaged" in run.trial.message, f"not named: {run.trial.message}")
    kept = [p for p in run.save.iterdir() if p.is_dir() and p.name.startswith("damaged-iter_0000020")]
    expect(kept, "the damaged checkpoint is gone")


def corrupted_index(run: Run) -> None:
    """The `.idx` of the data is damaged between two starts: refused by name; put back, the run continues."""
    own_data(run)
    stopped_at(run, run.random.randint(5, 25))
    index = run.data.with_suffix(".idx")
    good = index.read_bytes()
    if run.random.random() < 0.5:
        index.write_bytes(good[: run.random.randint(0, len(good) - 1)])
        run.trial.moment = f"cut to {index.stat().st_size:,} of {len(good):,} bytes"
    else:
        index.write_bytes(run.random.randbytes(9) + good[9:])
        run.trial.moment = "magic overwritten"
    run.refused(re.escape(index.name))
    index.write_bytes(good)
    run.goes_on_exactly()


def moved_data(run: Run) -> None:
    """The data is not where it was: refused by name; with the new path the run continues, masks and order unchanged."""
    own_data(run)
    stopped_at(run, run.random.randint(5, 25))
    run.data.parent.rename(run.folder / "elsewhere")
    run.trial.moment = "between two starts"
    run.refused(re.escape(str(run.data)))
    run.data = run.folder / "elsewhere" / "data"
    run.goes_on_exactly()


def own_data(run: Run) -> None:
    """Give the trial its own copy of the data."""
    folder = run.folder / "corpus"
    folder.mkdir()
    for path in run.workshop.root.glob("data.*"):
        if path.is_file():
            shutil.copy(path, folder / path.name)
    run.data = folder / "data"


FAULTS: dict[str, Callable[[Run], None]] = {
    "SIGKILL one rank": kill_one_rank,
    "SIGKILL all": kill_all,
    "SIGTERM": terminate,
    "SIGTERM in evaluation": terminate_in_evaluation,
    "SIGKILL in save": kill_in_save,
    "disk full in save": disk_full,
    "truncated checkpoint": truncated_checkpoint,
    "corrupted .idx": corrupted_index,
    "data moved": moved_data,
}


def can_mount(folder: Path) -> bool:
    """Tell whether this machine lets us make a small disk."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
    except FileNotFoundError:
        return False
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    return True
