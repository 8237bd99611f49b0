"""Does a long run grow? Memory and open files of the trainer and of its loader workers, step by step.

`meap train` trains a tiny model for 2,000 steps with 4 loader workers, validates and saves on the way. This process, from
outside, reads /proc of the trainer and of every process it has started, about once a second:

- own memory: the anonymous pages of one process (Anonymous), whoever shares them since the fork. What leaks grows here;
- total: anonymous and shared memory of all of them, a page that several share counted once (Pss_Anon + Pss_Shmem). It
  also grows while workers write to pages they shared with the trainer, reference counts for example, until all are copied;
- open file descriptors.

Pages of mapped files are in neither: they are the page cache.

After the warm-up (the first quarter of the steps, with ten checkpoints: workers of training and validation are there, and
the heap of the trainer has the size that saving needs) a line is fitted over the steps. The last line is one JSON document.

    python benchmarks/soak.py                 2,000 steps, some minutes
    python benchmarks/soak.py --quick         400 steps
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timing
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "examples" / "recipes" / "tiny_cpu_meap.yaml"
TINY = (
    "num_layers=2 hidden_size=32 ffn_hidden_size=64 seq_length=64 max_position_embeddings=64 global_batch_size=8 "
    "micro_batch_size=4 eval_iters=2 log_interval=50 device=cpu"
).split()
WARM_UP = 0.25
"""Share of the steps that the fit leaves out."""
POINTS = 8
"""Rows of the printed table."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the processes of the run held at one moment."""

    step: int
    trainer_kib: float
    """Own memory."""
    worker_kib: float
    """Own memory of a worker, the mean over all."""
    total_kib: float
    trainer_files: int
    worker_files: int
    """The most that one worker has open."""
    workers: int
    """How many there are."""


def write_data(folder: Path, *, byte_limit: int) -> Path:
    """Make a tokenizer and a dataset from the text of the standard library; return the prefix."""
    from meap_megatron.demo.corpus import read_texts, standard_library, write_corpus
    from meap_megatron.tokenizer.train import train_tokenizer

    corpus = write_corpus(folder / "corpus.jsonl", folder=standard_library(), byte_limit=byte_limit)
    train_tokenizer(read_texts(corpus.path), folder / "tokenizer", vocab_size=512)
    argv = ["preprocess", "text", corpus.path, "--tokenizer", folder / "tokenizer", "--output", folder / "data"]
    subprocess.run(meap(*map(str, argv)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "data"


def meap(*argv: str) -> list[str]:
    """Return the command line of a verb."""
    return [sys.executable, "-m", "meap_megatron.cli.main", *argv]


def is_loader(process: int) -> bool:
    """Tell whether a process is a worker of torch's DataLoader, by the name that torch gives it."""
    return Path(f"/proc/{process}/comm").read_text().strip() == "pt_data_worker"


def children(parent: int) -> list[int]:
    """Return the processes that any thread of a process has started and that live."""
    found: list[int] = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def memory_kib(process: int) -> tuple[int, int]:
    """Return the own memory of a process and its share of the total, in KiB."""
    fields = {}
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, _ = line.split()
        fields[name] = int(size)
    return fields["Anonymous:"], fields["Pss_Anon:"] + fields["Pss_Shmem:"]


def last_step(metrics: Path) -> int:
    """Return the last step that a run has recorded, 0 before the first."""
    if not metrics.exists():
        return 0
    with metrics.open("rb") as stream:
        stream.seek(max(0, metrics.stat().st_size - 4096))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the first line is cut, the last may be half written
        if record.get("event") == "step":
            return int(record["step"])
    return 0


def sample(trainer: int, metrics: Path) -> Sample | None:
    """Look at the trainer and its workers; None if one of them ended meanwhile, or the kernel keeps it from us."""
    try:
        workers = [process for process in children(trainer) if is_loader(process)]
        files = {process: len(os.listdir(f"/proc/{process}/fd")) for process in (trainer, *workers)}
        memory = {process: memory_kib(process) for process in (trainer, *workers)}
    except OSError:
        return None
    return Sample(
        step=last_step(metrics),
        trainer_kib=memory[trainer][0],
        worker_kib=sum(memory[process][0] for process in workers) / max(1, len(workers)),
        total_kib=sum(share for _, share in memory.values()),
        trainer_files=files[trainer],
        worker_files=max((files[process] for process in workers), default=0),
        workers=len(workers),
    )


def run(prefix: Path, save: Path, *, steps: int, workers: int, every: float, save_every: int) -> list[Sample]:
    """Train and watch; return the samples taken after the first step."""
    argv = [
        *("train", str(RECIPE), *TINY, f"data_path={prefix}", f"save={save}", f"train_iters={steps}"),
        *(f"num_workers={workers}", f"save_interval={save_every}", f"eval_interval={max(1, steps // 20)}"),
    ]
    log = save.with_suffix(".log")
    with log.open("w") as stream:
        process = subprocess.Popen(meap(*argv), stdout=stream, stderr=stream, start_new_session=True)
        samples = []
        try:
            while process.poll() is None:
                time.sleep(every)
                found = sample(process.pid, save / "metrics.jsonl")
                if found is not None and 0 < found.step < steps:
                    samples.append(found)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise SystemExit(f"the run ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return samples


def summarise(samples: list[Sample], *, steps: int) -> dict[str, dict[str, float]]:
    """Return for each quantity its value at the start and the end of the fit, its range, slope and growth.

    Raises:
        SystemExit: too few samples were taken.
    """
    steady = [found for found in samples if found.step >= WARM_UP * steps]
    if len({found.step for found in steady}) < 5:
        raise SystemExit(f"only {len(steady)} samples after the warm-up: raise --steps or lower --every")
    at = np.array([found.step for found in steady], dtype=float)
    table = {}
    for name in ("trainer_kib", "worker_kib", "total_kib", "trainer_files", "worker_files", "workers"):
        values = np.array([getattr(found, name) for found in steady], dtype=float)
        line = stats.linregress(at, values)
        table[name] = {
            "first": float(values[0]),
            "last": float(values[-1]),
            "lowest": float(values.min()),
            "highest": float(values.max()),
            "per_1000_steps": 1000 * float(line.slope),
            "standard_error": 1000 * float(line.stderr),
        }
    return table


def main() -> int:
    """Run and print."""
    parser = timing.arguments(__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4, help="loader processes of the training split")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two looks")
    parser.add_argument("--save-every", type=int, default=50, help="steps between two checkpoints")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the run is ended too
    steps = 400 if args.quick else args.steps
    os.environ.setdefault("MEAP_THREADS", "1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prefix = write_data(folder, byte_limit=4_000_000)
        began = time.monotonic()
        samples = run(
            prefix, folder / "run", steps=steps, workers=args.workers, every=args.every, save_every=args.save_every
        )
        seconds = time.monotonic() - began
    shown = [samples[index] for index in np.linspace(0, len(samples) - 1, POINTS).round().astype(int)]
    timing.print_table(
        ("step", "trainer MiB", "worker MiB", "total MiB", "workers", "files trainer", "files worker"),
        *(
            (
                f"{at.step:,}",
                *(f"{kib / 1024:.2f}" for kib in (at.trainer_kib, at.worker_kib, at.total_kib)),
                *map(str, (at.workers, at.trainer_files, at.worker_files)),
            )
            for at in shown
        ),
    )
    table = summarise(samples, steps=steps)
    timing.print_table(
        (f"per 1,000 steps, from step {round(WARM_UP * steps):,} to {samples[-1].step:,}", "slope", "standard error"),
        *((name, f"{row['per_1000_steps']:+.2f}", f"{row['standard_error']:.2f}") for name, row in table.items()),
    )
    ratios = {
        f"{name}_memory_last_over_first": table[f"{name}_kib"]["last"] / table[f"{name}_kib"]["first"]
        for name in ("trainer", "worker", "total")
    }
    return timing.publish(
        "soak",
        quick=args.quick,
        ratios=ratios,
        packages=("torch", "numpy", "megatron-core"),
        lower_is_better=list(ratios),
        steps=steps,
        loader_workers=args.workers,
        samples=len(samples),
        seconds=round(seconds, 1),
        after_warm_up={name: {key: round(value, 3) for key, value in row.items()} for name, row in table.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
