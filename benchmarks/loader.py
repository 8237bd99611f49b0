"""What the training loop waits for: torch's DataLoader with 0 to 4 workers, and DALI, on the same samples.

Micro-batches of 8 samples of 4,096 tokens, documents of about 600 tokens in the page cache, 15 % masked, on a CPU. Two
questions, each a column:

* back to back: time per micro-batch if the loop does nothing but read. The rate that a loader can keep up with.
* with a step: the loop sleeps 10 ms between two reads, as it does while a GPU computes, and what is timed is `next` alone:
  what a step waits for. Everything a loader does beside the loop is free here, as long as a core is.

Contestants take turns; figures are medians over rounds, by the clock, because workers are other processes. `start` is the
time to the first micro-batch, once. DALI's loader is measured if it is installed (pip install nvidia-dali-cuda130).
The last line is one JSON document.

    python benchmarks/loader.py            about two minutes
    python benchmarks/loader.py --quick    for tests: the figures mean nothing
"""

import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and NumPy are loaded

import timing
from sample import build, write_data

BATCH = 8
STEP_SECONDS = 0.010
WORKERS = (0, 1, 2, 4)
PEER, PLAIN, DALI = "torch, 0 workers, GPTDataset", "torch, 0 workers", "DALI"


def contestants(prefix: Path, *, num_batches: int) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    """Return what starts each loader: all but the peer read MEAPGPTDataset."""
    from torch.utils.data import DataLoader

    plain, ours = build(prefix, masked=False, ours=False), build(prefix, masked=True)
    batches = [[(BATCH * i + row) % len(ours) for row in range(BATCH)] for i in range(num_batches)]

    def torch_loader(dataset: Any, workers: int) -> Callable[[], Iterator[dict[str, Any]]]:
        # As Megatron makes it, but for the pinned memory, which needs a GPU.
        return lambda: iter(DataLoader(dataset, batch_sampler=batches, num_workers=workers))

    made = {PEER: torch_loader(plain, 0), "torch, 2 workers, GPTDataset": torch_loader(plain, 2)}
    made |= {f"torch, {workers} worker{'s' * (workers != 1)}": torch_loader(ours, workers) for workers in WORKERS}
    if importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None:
        from meap_megatron.datasets.dali import DaliLoader

        made[DALI] = lambda: DaliLoader(ours, batches, micro_batch_size=BATCH, device_id=None)
    return made


def measure(prefix: Path, *, rounds: int, calls: int, step_calls: int) -> dict[str, dict[str, float]]:
    """Return per contestant: ms to the first micro-batch, per micro-batch back to back, and waited for in a step."""
    starters = contestants(prefix, num_batches=8 + (rounds + 1) * (calls + step_calls))
    loaders: dict[str, Iterator[dict[str, Any]]] = {}
    found: dict[str, dict[str, list[float]]] = {}
    expected = None
    for name, start in starters.items():
        began = time.perf_counter()
        loaders[name] = start()
        first = next(loaders[name])
        found[name] = {"start": [time.perf_counter() - began], "back to back": [], "with a step": []}
        assert first["tokens"].shape == (BATCH, 4096)
        expected = first["labels"] if expected is None else expected
        assert bool((first["labels"] == expected).all()), f"{name} reads other samples"
    for round_ in range(rounds + 1):
        for name, loader in loaders.items():
            began = time.perf_counter()
            for _ in range(calls):
                next(loader)
            back_to_back = (time.perf_counter() - began) / calls
            waited = []
            for _ in range(step_calls):
                time.sleep(STEP_SECONDS)
                began = time.perf_counter()
                next(loader)
                waited.append(time.perf_counter() - began)
            if round_ > 0:
                found[name]["back to back"].append(back_to_back)
                found[name]["with a step"].append(statistics.median(waited))
    return {
        name: {column: 1e3 * statistics.median(values) for column, values in columns.items()}
        for name, columns in found.items()
    }


def main() -> int:
    """Run, print the table, and the JSON document last."""
    quick = timing.arguments(__doc__).parse_args().quick
    timing.use_one_thread()
    rounds, calls, step_calls = (2, 8, 3) if quick else (15, 100, 20)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "data")
        write_data(prefix, num_documents=500 if quick else 4000)
        table = measure(prefix, rounds=rounds, calls=calls, step_calls=step_calls)

    columns = ("back to back", "with a step", "start")
    timing.print_table(
        ("ms", *columns), *((name, *(f"{row[column]:.3f}" for column in columns)) for name, row in table.items())
    )
    ours = table[PLAIN]["back to back"]
    ratios = {"gpt_0_workers_over_ours_0_workers": table[PEER]["back to back"] / ours}
    if DALI in table:
        ratios["torch_0_workers_over_dali"] = ours / table[DALI]["back to back"]
        ratios["torch_0_workers_over_dali_with_a_step"] = table[PLAIN]["with a step"] / table[DALI]["with a step"]
    else:
        print("\nDALI is not installed, and was not measured: pip install nvidia-dali-cuda130")
    return timing.publish(
        "loader",
        quick=quick,
        ratios=ratios,
        packages=("torch", "numpy", "megatron-core"),
        rounds=rounds,
        micro_batch=BATCH,
        step_ms=1e3 * STEP_SECONDS,
        ms={name: {column: round(value, 4) for column, value in row.items()} for name, row in table.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
