"""Training runs of the checks: `meap train` in a process of its own, watched from within, and what it wrote."""

import functools
import json
import os
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.gpu import process
from benchmarks.gpu.session import ROOT, Session, read_json, tail, write_json

RECIPES = ROOT / "examples" / "recipes"
TINY_RECIPE = RECIPES / "tiny_cpu_ntp.yaml"
LIMIT = 150.0
"""Seconds of one training run."""
QUICK = (
    "num_layers=2 hidden_size=64 ffn_hidden_size=128 num_attention_heads=4 num_query_groups=2 seq_length=64 "
    "max_position_embeddings=64 global_batch_size=4 micro_batch_size=2"
).split()
SMALL = (
    "num_layers=4 hidden_size=256 ffn_hidden_size=512 num_attention_heads=4 num_query_groups=2 seq_length=256 "
    "max_position_embeddings=256 global_batch_size=8 micro_batch_size=4"
).split()
"""Multiples of 128 everywhere, which FP8 in blocks asks for."""
COMMON = (
    "make_vocab_size_divisible_by=128 lr=1e-3 min_lr=1e-4 eval_iters=1 eval_interval=1000 save_interval=1000 "
    "log_interval=1 meap_mask_ratio=0.15 nproc=1"
).split()
NO_COMPILER = "disable_jit_fuser=true"
"""Saves half a minute of torch.compile where speed does not matter."""
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Transformer Engine multiplies float32 in TF32 otherwise, whatever torch's switch says."""


BACKEND = re.compile(r"Selected backend = (.+)")


class Run:
    """A training run: its process while it runs, its records afterwards."""

    def __init__(self, folder: Path, started: BaseProcess) -> None:
        self.folder, self.process = folder, started
        self.status: int | None = None

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.folder / "command.log"

    def wait(self, limit: float = LIMIT) -> "Run":
        """Wait for the end, at most `limit` seconds.

        Raises:
            RuntimeError: it failed; the message holds the end of its logs.
        """
        self.status = process.wait(self.process, limit)
        if self.status != 0:
            how = f"was ended after {limit:.0f} s" if self.status is None else f"ended with status {self.status}"
            logs = f"{tail(self.log)}\n{tail(self.folder / 'logs' / 'rank-0.log')}"
            raise RuntimeError(f"{self.folder.name} {how}\n{logs}")
        return self

    def records(self, event: str) -> list[dict[str, Any]]:
        """Return the records of one kind; a torn last line is left out."""
        path = self.folder / "metrics.jsonl"
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return [record for record in found if record["event"] == event]

    def steps(self) -> dict[int, dict[str, Any]]:
        """Return the record of every step."""
        return {record["step"]: record for record in self.records("step")}

    def field(self, name: str) -> list[Any]:
        """Return a field of every step."""
        return [record[name] for record in self.records("step")]

    def attention(self) -> str:
        """Return the kinds of attention that Transformer Engine chose; it tells with NVTE_DEBUG=1 and NVTE_DEBUG_LEVEL=2."""
        log = self.folder / "logs" / "rank-0.log"
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return ", ".join(sorted(set(BACKEND.findall(said))))

    @functools.cached_property
    def watched(self) -> dict[str, Any]:
        """Return what was seen from within: see `Watch.report`."""
        return dict(read_json(self.folder / "watch.json") or {})


def settings(session: Session) -> list[str]:
    """Return what is set over the tiny recipe in checks of correctness; QUICK is too small for FP8, which cards have."""
    return [*(QUICK if session.quick and not session.on_gpu else SMALL), *COMMON]


def train(
    session: Session,
    name: str,
    *options: str | Path,
    recipe: Path = TINY_RECIPE,
    device: str | None = None,
    fresh: bool = False,
    save: bool = True,
    environ: dict[str, str] | None = None,
    micro_batches: int | None = None,
    gate: Connection | None = None,
    profile_step: int | None = None,
) -> Run:
    """Start `meap train` and return at once.

    Args:
        session: of the check.
        name: of the run, a folder in the check's.
        options: key=value.
        recipe: to start from.
        device: other than the session's.
        fresh: an interpreter of its own, as a user starts it.
        save: keep a checkpoint.
        environ: variables of the run.
        micro_batches: of a step; given, steps are timed and data waits counted.
        gate: where the run waits for each step, see `turns`.
        profile_step: step, counted from 0, that runs under torch's profiler.
    """
    folder = session.work / name.replace(",", "").replace(" ", "_")
    device = device or session.device
    kept = [f"save={folder}"] if save else ["save=null", f"meap_metrics={folder}/metrics.jsonl"]
    if device == "cuda" and session.machine().get("compiler") == "none" and NO_COMPILER not in options:
        options = (*options, NO_COMPILER)
    # The process that forks has imported the engine, and its libraries may have read the variable when they were loaded.
    fresh = fresh or device == "cuda" and bool({"NVIDIA_TF32_OVERRIDE", process.NO_ENGINE} & set(environ or {}))
    argv = ["train", str(recipe), f"device={device}", *kept, f"meap_log={folder}/logs", *map(str, options)]
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    watch = None if micro_batches is None else (micro_batches, gate, profile_step)
    started = process.start(
        _train,
        argv,
        str(folder),
        watch,
        device=device,
        log=folder / "command.log",
        fresh=fresh,
        environ=threads | dict(environ or {}),
    )
    return Run(folder, started)


def run_meap(
    session: Session, name: str, *options: str | Path, device: str | None = None, limit: float = LIMIT
) -> int:
    """Run another `meap` command to its end and return its status; its output is in the check's folder, NAME.log."""
    argv = [str(option) for option in options]
    log = session.work / f"{name}.log"
    started = process.start(_meap, argv, device=device or session.device, log=log)
    status = process.wait(started, limit)
    return 124 if status is None else status


def _meap(argv: list[str]) -> None:
    from meap_megatron.cli.main import main

    raise SystemExit(main(argv))


def _train(argv: list[str], folder: str, watch: tuple[int, Connection | None, int | None] | None) -> None:
    from meap_megatron.launch.runtime import free_port

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    if watch is None:
        _meap(argv)
    seen = Watch(*watch)  # type: ignore[misc]
    seen.install("cuda" if "device=cuda" in argv else "cpu")
    began = time.perf_counter()
    try:
        _meap(argv)
    finally:
        write_json(Path(folder) / "watch.json", seen.report(began))


class Timed:
    """An iterator that notes how long each of its items took."""

    def __init__(self, iterator: Iterator[Any], seconds: list[float]) -> None:
        self.iterator, self.seconds = iterator, seconds

    def __iter__(self) -> "Timed":
        return self

    def __next__(self) -> Any:
        began = time.perf_counter()
        item = next(self.iterator)
        self.seconds.append(time.perf_counter() - began)
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self.iterator, name)


class Watch:
    """Times of steps and of waiting for data, seen from within the forward step, and the peak of memory."""

    def __init__(self, micro_batches: int, gate: Connection | None, profile_step: int | None) -> None:
        """Watch a run with so many micro-batches per step."""
        self.micro_batches, self.gate, self.profile_step = micro_batches, gate, profile_step
        self.calls = 0
        self.begins: list[float] = []
        self.waits: list[float] = []
        self.gate_began: float | None = None
        self.profiler: Any = None
        self.profile = ""
        self.cuda = False

    def install(self, device: str) -> None:
        """Put the watch around the forward step that the trainer makes."""
        from meap_megatron.launch import runtime
        from meap_megatron.training import platform

        self.cuda = device == "cuda"
        runtime.set_thread_policy()
        platform.prepare(device)
        from meap_megatron.training import step

        make = step.make_forward_step

        def make_watched(*args: Any, **kwargs: Any) -> Callable[..., Any]:
            forward = make(*args, **kwargs)

            def watched(iterator: Any, *rest: Any) -> Any:
                if self.calls % self.micro_batches == 0:
                    self.step_begins()
                self.calls += 1
                return forward(None if iterator is None else Timed(iterator, self.waits), *rest)

            return watched

        step.make_forward_step = make_watched

    def step_begins(self) -> None:
        """End the last step, wait at the gate, begin the next."""
        import torch

        if self.profiler is not None:
            self.end_profile()
        if self.gate is not None:
            if self.cuda:
                torch.cuda.synchronize()
            self.gate.send(None if self.gate_began is None else time.perf_counter() - self.gate_began)
            if not self.gate.recv():
                os._exit(0)
            self.gate_began = time.perf_counter()
        if len(self.begins) == self.profile_step:
            self.profiler = torch.profiler.profile()
            self.profiler.__enter__()
        self.begins.append(time.perf_counter())

    def end_profile(self) -> None:
        """Keep the table of the step that was profiled; some machines do not let CUPTI in, and that must not end a run."""
        try:
            self.profiler.__exit__(None, None, None)
            by = "self_device_time_total" if self.cuda else "self_cpu_time_total"
            self.profile = self.profiler.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=60)
        except Exception as error:
            self.profile = f"no profile: {type(error).__name__}: {error}"
        self.profiler = None

    def report(self, began: float) -> dict[str, Any]:
        """Return seconds of every step but the last, of every wait for data, to the first step, and peak bytes."""
        import torch

        peak: dict[str, Any] = {"peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        if self.cuda and torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info()
            peak |= {
                "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
                "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
                "used_on_device_bytes": total - free,
            }
        return {
            "step_seconds": [later - earlier for earlier, later in zip(self.begins, self.begins[1:], strict=False)],
            "wait_seconds": self.waits,
            "seconds_to_first_step": self.begins[0] - began if self.begins else None,
            "profile": self.profile,
            **peak,
        }


def median_late(values: list[float], *, skip: int) -> float:
    """Return the median without the first values, which warm up; NaN if none is left."""
    late = values[skip:]
    return statistics.median(late) if late else float("nan")
