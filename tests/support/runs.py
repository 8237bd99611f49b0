"""Start the real trainer as a user does, and read what it wrote.

The `meap` verbs that import Megatron run in a fork of a process that has Megatron imported (tests/support/warm.py), and
where that process is there already, all verbs do; with `cold=True`, in a new interpreter.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.warm import WarmProcess, server

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "recipes"
WARM_VERBS = ("train", "convert", "generate", "chat", "show", "cache", "demo", "sweep")
TINY = (
    "num_layers=4 hidden_size=64 ffn_hidden_size=176 seq_length=64 max_position_embeddings=64 "
    "global_batch_size=8 micro_batch_size=4 eval_iters=1"
).split()
"""Overrides of the tiny CPU recipe that make a step take about 30 ms."""


def meap(
    *words: str | Path,
    check: bool = True,
    timeout: float = 300.0,
    cold: bool = False,
    cwd: Path = ROOT,
    **environ: str,
) -> subprocess.CompletedProcess[str]:
    """Run the `meap` command line to its end, in a process of its own."""
    arguments = [str(word) for word in words]
    if not cold and (arguments[0] in WARM_VERBS or server.cache_info().currsize):
        done = run_warm(arguments, timeout=timeout, environ=os.environ | environ, cwd=cwd)
    else:
        command = [sys.executable, "-m", "meap_megatron.cli.main", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=os.environ | environ, check=False
        )
    if check and done.returncode != 0:
        raise AssertionError(f"meap {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def python(*words: str | Path, timeout: float = 300.0, **environ: str) -> str:
    """Run the interpreter with these words in a fork that has imported Megatron, to its end; return its output."""
    environment = os.environ | {"MEAP_THREADS": "1"} | environ
    done = run_warm(["python", *map(str, words)], timeout=timeout, environ=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def run_warm(
    words: list[str], *, timeout: float, environ: dict[str, str], cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command in a fork of the warm process."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = WarmProcess(words, environ=environ, stdout=stdout.fileno(), stderr=stderr, cwd=cwd)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(["meap", *words], status, stdout.read(), stderr.read())


def train(recipe: str, *overrides: str, check: bool = True, timeout: float = 400.0, **environ: Any) -> Any:
    """Run `meap train` on a recipe of examples/recipes with overrides."""
    return meap("train", RECIPES / recipe, *overrides, "device=cpu", check=check, timeout=timeout, **environ)


def start(*words: str | Path, cwd: Path = ROOT, **environ: str) -> WarmProcess:
    """Start a `meap` command in a process group of its own and return at once."""
    with open(os.devnull, "w") as nowhere:
        return WarmProcess(
            [str(word) for word in words],
            environ=os.environ | environ,
            stdout=nowhere.fileno(),
            stderr=subprocess.PIPE,
            cwd=cwd,
        )


def kill_group(process: WarmProcess, number: int = signal.SIGKILL) -> None:
    """Signal a started command and all its children."""
    os.killpg(process.pid, number)
    process.wait(timeout=60)


def wait_for_step(metrics: Path, step: int, *, timeout: float = 120.0) -> None:
    """Wait until a metrics file holds a step."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if metrics.exists() and any(line.get("step", 0) >= step for line in records(metrics, "step")):
            return
        time.sleep(0.1)
    raise AssertionError(f"{metrics} did not reach step {step} in {timeout} s")


def records(metrics: Path, event: str) -> list[dict[str, Any]]:
    """Return the records of one kind from a metrics file."""
    lines = []
    for line in metrics.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return [line for line in lines if line["event"] == event]


def losses(run: Path, field: str = "lm_loss") -> dict[int, float]:
    """Return the value of a field at every step of a run."""
    return {line["step"]: line[field] for line in records(run / "metrics.jsonl", "step")}


def traced(run: Path, field: str) -> dict[int, list[list[int]]]:
    """Return the digests that each rank holding `field` wrote at every training step: step -> one list per rank."""
    result: dict[int, list[list[int]]] = {}
    for path in sorted((run / "trace").glob("rank-*.jsonl")):
        steps: dict[int, list[int]] = {}
        for line in map(json.loads, path.read_text().splitlines()):
            if line["training"] and line[field] is not None:
                steps.setdefault(line["step"], []).extend(line[field])
        for step, digests in steps.items():
            result.setdefault(step, []).append(digests)
    return result
