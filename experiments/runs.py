"""What every experiment does with its arms: train each with `meap train`, go on after a stop, register before the first.

A locked arm belongs to another process, so that a script can be started twice to use two cores.
"""

import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import recipe as recipes
from meap_megatron.sweep.plan import Arm, is_finished, steps_done
from meap_megatron.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("megatron-core", "torch", "transformers", "tokenizers", "numpy")


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Hold the folder of an arm; gives the descriptor of the lock, or None if another process has it.

    The trainer inherits the descriptor: a trainer whose parent was killed keeps the arm until it is gone itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file.fileno()


def train(name: str, recipe: Path, words: Sequence[str], *, save: Path, lock: int) -> None:
    """Train one arm to its end, unless it is there.

    Args:
        name: of the arm, for messages.
        recipe: of `meap train`.
        words: key=value behind it, `save` not among them.
        save: folder of the run.
        lock: descriptor that the trainer inherits.

    Raises:
        UserError: its folder contains a run with other settings.
        RunError: the trainer failed.
        SystemExit: a signal asked this process to stop; the trainer has saved and ended.
    """
    words = [*words, f"save={save}"]
    arm, loaded = Arm(name=name, save=save, overrides=words), recipes.load(recipe, words)
    if finished(arm, loaded):
        return
    received: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: Any) -> None:
        received.append(number)
        for process in started:
            process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        command = [sys.executable, "-m", "meap_megatron.cli.main", "train", str(recipe), *words]
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
    if status != 0 or not finished(arm, loaded):
        raise RunError(f"{name} failed or was stopped (status {status}); the same command goes on with it")


def finished(arm: Arm, recipe: recipes.Recipe) -> bool:
    """Tell whether a run has done its steps: the recipe's, or those that its trainer made of `meap_epochs`."""
    if is_finished(arm, recipe):
        return True
    done, ended = steps_done(arm.save)
    if recipe.get("train_iters") is not None or not ended:
        return False
    starts = [record for record in read_metrics(arm.save / "metrics.jsonl") if record["event"] == "start"]
    return done >= int(starts[-1]["run"]["train_iters"])


def meap(*words: str | Path) -> None:
    """Run one command of `meap`.

    Raises:
        RunError: it failed; its message is above.
    """
    command = [sys.executable, "-m", "meap_megatron.cli.main", *map(str, words)]
    status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if status != 0:
        raise RunError(f"meap {' '.join(map(str, words[:2]))} ended with status {status}; its message is above")


def check_committed(*paths: Path) -> None:
    """Refuse to begin or go on with a protocol or script that is not committed.

    Raises:
        UserError: one of them is not.
    """
    if git("status", "--porcelain", "--", *map(str, paths)):
        raise UserError("protocol, recipes or script are not committed as they are; commit them before a run")


def begin(record: Path, *, label: str, protocol_sha256: str, data: Any) -> None:
    """Record under which protocol, versions and data a record was begun, and refuse to go on under others.

    Raises:
        UserError: one of them is another.
    """
    now = {
        "label": label,
        "protocol_sha256": protocol_sha256,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "data": data,
    }
    path = record / "started.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value
        ]
        if changed:
            raise UserError(f"{record} was begun otherwise: {'; '.join(changed)}; go back to that, or begin another")
        return
    record.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({**now, "commit": git("rev-parse", "HEAD").strip()}, indent=1) + "\n")


def git(*words: str) -> str:
    """Return what git says in this repository.

    Raises:
        UserError: there is no repository; the experiment has to name its commit.
    """
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"git {words[0]} failed ({error}); run this from a clone of the repository") from None
    return done.stdout
