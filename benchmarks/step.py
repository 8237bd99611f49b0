"""What a training step on a CPU costs: `meap train` (Megatron's trainer) against Hugging Face Transformers' Llama.

Same shape, batch, float32, fused AdamW, gradient clipping, number of threads. Every contestant is a process of its own that
waits between two steps until it is told to take the next one; they take turns, step by step, so that other programs on the
machine hit all of them. Four contestants per size and sequence length:

* `meap`: the trainer as `meap train` starts it, 15 % of the input masked; a step is everything from one forward pass to the
  next: data, loss reports, optimizer, metrics.
* `ntp`: the same without masking.
* `transformers`: LlamaForCausalLM with SDPA, the loss that it computes itself, `clip_grad_norm_`, torch's fused AdamW,
  `loss.item()`.
* `products`: the matrix products of the model's linear layers alone, forward and both backward, into memory that is there.

The share of the matrix-product rate is the floating-point operations of linear layers and causal attention, per second of a
step, over the rate of `products` in the same turn. Figures are medians over turns, ratios are medians of the ratios of one
turn. Each is given by the clock and by CPU time, which leaves out what other programs take from the core.
The last line is one JSON document.

    python benchmarks/step.py                                about 12 minutes
    python benchmarks/step.py --sizes 16m --lengths 1024     one cell
    python benchmarks/step.py --quick                        for tests: the figures mean nothing
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS = int(os.environ.get("MEAP_THREADS", "1"))
for variable in ("OMP_NUM_THREADS", "MEAP_THREADS"):
    os.environ[variable] = str(THREADS)  # before torch is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import random_data  # noqa: E402
import timing  # noqa: E402

CONTESTANTS = ("meap", "ntp", "transformers", "products")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama; every head has `hidden_size / heads` dimensions."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    vocab: int
    tokens: int
    """Per step."""

    def linear_shapes(self) -> list[tuple[int, int]]:
        """Return (inputs, outputs) of every linear layer, the output layer last."""
        head = self.hidden // self.heads
        layer = [
            (self.hidden, self.hidden + 2 * self.groups * head),
            (self.hidden, self.hidden),
            (self.hidden, 2 * self.ffn),
            (self.ffn, self.hidden),
        ]
        return [*(layer * self.layers), (self.hidden, self.vocab)]

    def parameters(self) -> int:
        """Return the number of weights, norms and both embeddings included."""
        linear = sum(inputs * outputs for inputs, outputs in self.linear_shapes())
        return linear + self.hidden * (self.vocab + 2 * self.layers + 1)

    def linear_flops(self) -> float:
        """Return the operations of the linear layers in one step: forward and two backward products."""
        return 6.0 * self.tokens * sum(inputs * outputs for inputs, outputs in self.linear_shapes())

    def attention_flops(self, length: int) -> float:
        """Return the operations of causal attention in one step: the half of length x length that is not masked."""
        return 6.0 * self.tokens * self.layers * self.hidden * length


SHAPES = {
    "3m": Shape(layers=4, hidden=128, ffn=344, heads=4, groups=2, vocab=8192, tokens=4096),
    "16m": Shape(layers=8, hidden=256, ffn=688, heads=8, groups=4, vocab=19_200, tokens=2048),
    "122m": Shape(layers=12, hidden=768, ffn=2048, heads=12, groups=4, vocab=30_208, tokens=1024),
}
QUICK = Shape(layers=2, hidden=32, ffn=88, heads=4, groups=2, vocab=256, tokens=128)
LEARNING_RATE = 1e-4
DOCUMENTS = 200


class Gate:
    """Where a contestant waits for its next step; reports the seconds of the last one."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.words = os.fdopen(int(os.environ["STEP_REPORT"]), "w", buffering=1)

    def wait(self) -> None:
        """End the step that runs, if any, and begin the next when it is asked for."""
        if self.began is not None:
            print(time.perf_counter() - self.began[0], time.process_time() - self.began[1], file=self.words)
        else:
            print("ready", file=self.words)
        if not sys.stdin.readline():
            os._exit(0)
        self.began = (time.perf_counter(), time.process_time())


def run_trainer(gate: Gate, shape: Shape, length: int, *, folder: Path, masked: bool, extra: list[str]) -> None:
    """Train by Megatron's trainer as `meap train` does, waiting at the gate before every step."""
    from meap_megatron.cli.main import main
    from meap_megatron.launch import runtime
    from meap_megatron.training import platform

    runtime.set_thread_policy()
    platform.prepare("cpu")
    from meap_megatron.training import step

    make = step.make_forward_step

    def make_gated(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        forward_step = make(*args, **kwargs)

        def gated(*inputs: Any) -> Any:
            gate.wait()
            return forward_step(*inputs)

        return gated

    step.make_forward_step = make_gated
    rows = shape.tokens // length
    recipe = Path(__file__).resolve().parents[1] / "examples" / "recipes" / "tiny_cpu_ntp.yaml"
    settings = {
        "num_layers": shape.layers,
        "hidden_size": shape.hidden,
        "ffn_hidden_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_query_groups": shape.groups,
        "seq_length": length,
        "max_position_embeddings": length,
        "global_batch_size": rows,
        "micro_batch_size": rows,
        "train_iters": 100_000,
        "lr": LEARNING_RATE,
        "min_lr": LEARNING_RATE,
        "eval_iters": 0,
        "save_interval": 100_000,
        "split": "1,0,0",
        "data_path": folder / "data",
        "save": folder / ("meap" if masked else "ntp"),
        "meap_mask_ratio": 0.15 if masked else 0.0,
        "device": "cpu",
    }
    sys.exit(main(["train", str(recipe), *(f"{key}={value}" for key, value in settings.items()), *extra]))


def run_transformers(gate: Gate, shape: Shape, length: int) -> None:
    """Train LlamaForCausalLM in a plain loop."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        max_position_embeddings=length,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    rows = torch.randint(3, shape.vocab, (64, shape.tokens // length, length))
    for number in range(1_000_000):
        gate.wait()
        batch = rows[number % len(rows)]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()


def run_products(gate: Gate, shape: Shape) -> None:
    """Multiply the matrices of every linear layer, each with weights, gradients and activations of its own size."""
    import torch

    torch.set_num_threads(THREADS)
    generator = torch.Generator().manual_seed(1)

    def random(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator)

    linear = shape.linear_shapes()
    weights = [random(outputs, inputs) for inputs, outputs in linear]
    gradients = [torch.empty_like(weight) for weight in weights]
    widths = {width for pair in linear for width in pair}
    activations = {width: random(shape.tokens, width) for width in widths}
    results = {width: random(shape.tokens, width) for width in widths}
    while True:
        gate.wait()
        for (inputs, outputs), weight in zip(linear, weights, strict=True):
            torch.mm(activations[inputs], weight.t(), out=results[outputs])
        for (inputs, outputs), weight, gradient in reversed(list(zip(linear, weights, gradients, strict=True))):
            torch.mm(activations[outputs], weight, out=results[inputs])
            torch.mm(activations[outputs].t(), activations[inputs], out=gradient)


class Contestant:
    """A process that takes one step when it is told to."""

    def __init__(self, name: str, *, shape: str, length: int, folder: Path, extra: list[str]) -> None:
        read, write = os.pipe()
        command = [sys.executable, __file__, "--contestant", name, "--sizes", shape, "--lengths", str(length)]
        self.log = (folder / f"{name}.log").open("w+")
        self.process = subprocess.Popen(
            [*command, "--folder", str(folder), *extra],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            text=True,
            pass_fds=[write],
            env=os.environ | {"STEP_REPORT": str(write)},
        )
        os.close(write)
        self.reports = os.fdopen(read)
        self.name = name

    def read(self) -> list[str]:
        """Return the words of the next report."""
        line = self.reports.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended with {self.process.wait()}:\n{self.log.read()[-3000:]}")
        return line.split()

    def step(self) -> tuple[float, float]:
        """Take a step; return its seconds by the clock and of CPU time."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        clock, cpu = (float(word) for word in self.read())
        return clock, cpu

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.reports.close()
        self.log.close()


def measure(
    size: str, length: int, *, turns: int, warm: int, names: tuple[str, ...], extra: list[str]
) -> dict[str, Any]:
    """Let the contestants take turns; return per name the seconds of every turn, by the clock and of CPU time."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mask_id = shape_of(size).vocab - 1
        random_data.write_data(folder / "data", num_documents=DOCUMENTS, shortest=1000, longest=4000, mask_id=mask_id)
        contestants: list[Contestant] = []
        try:
            for name in names:
                contestants.append(Contestant(name, shape=size, length=length, folder=folder, extra=extra))
            for contestant in contestants:  # they start together
                contestant.read()
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for turn in range(warm + turns):
                # Every other turn backwards: whoever comes after the same neighbour each time would have its caches.
                for contestant in contestants if turn % 2 == 0 else contestants[::-1]:
                    seconds = contestant.step()
                    if turn >= warm:
                        found[contestant.name].append(seconds)
        finally:
            for contestant in contestants:
                contestant.close()
    return found


def shape_of(size: str) -> Shape:
    """Return a shape by name."""
    return QUICK if size == "quick" else SHAPES[size]


def ratio(found: dict[str, Any], over: str, under: str, clock: int) -> list[float]:
    """Return, per turn, the seconds of one contestant over those of another."""
    return [a[clock] / b[clock] for a, b in zip(found[over], found[under], strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles around it."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def summary(size: str, length: int, found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one cell of the table."""
    shape = shape_of(size)
    result: dict[str, Any] = {"size": size, "length": length, "parameters": shape.parameters()}
    flops = shape.linear_flops() + shape.attention_flops(length)
    for clock, kind in enumerate(("clock", "cpu")):
        medians = {name: statistics.median(turn[clock] for turn in turns) for name, turns in found.items()}
        cell: dict[str, Any] = {"seconds": {name: round(value, 5) for name, value in medians.items()}}
        cell["tokens_per_second"] = {
            name: round(shape.tokens / value, 1) for name, value in medians.items() if name != "products"
        }
        if {"meap", "transformers"} <= found.keys():
            cell["transformers_over_meap"] = quartiles(ratio(found, "transformers", "meap", clock))
        if {"meap", "ntp"} <= found.keys():
            cell["meap_over_ntp"] = quartiles(ratio(found, "meap", "ntp", clock))
        if "products" in found:
            cell["gflops_of_products"] = round(shape.linear_flops() / medians["products"] / 1e9, 1)
            for name in found.keys() - {"products"}:
                shares = [x * flops / shape.linear_flops() for x in ratio(found, "products", name, clock)]
                cell[f"{name}_share_of_rate"] = quartiles(shares)
        result[kind] = cell
    return result


def ratios(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Return the medians of the ratios in CPU time, by name, size and length."""
    names = ("transformers_over_meap", "meap_over_ntp", "meap_share_of_rate", "transformers_share_of_rate")
    return {
        f"{name}_{cell['size']}_{cell['length']}": cell["cpu"][name][0]
        for cell in cells
        for name in names
        if name in cell["cpu"]
    }


def print_cell(cell: dict[str, Any]) -> None:
    """Print one size at one length."""
    print(f"\n{cell['size']}, {cell['parameters'] / 1e6:.1f} M parameters, sequence {cell['length']:,}")
    for kind in ("clock", "cpu"):
        figures = cell[kind]
        rows = [("by the clock" if kind == "clock" else "CPU time", "s/step", "tokens/s", "of rate")]
        for name, seconds in figures["seconds"].items():
            rate, share = figures["tokens_per_second"].get(name), figures.get(f"{name}_share_of_rate")
            rows.append((name, f"{seconds:.4f}", f"{rate:,.0f}" if rate else "", f"{share[0]:.1%}" if share else ""))
        timing.print_table(*rows)
        for name in ("transformers_over_meap", "meap_over_ntp"):
            if name in figures:
                print("{}: {:.3f}, quartiles {:.3f} to {:.3f}".format(name, *figures[name]))
        if "gflops_of_products" in figures:
            print(f"rate of products: {figures['gflops_of_products']:.1f} GFLOP/s")


def main() -> int:
    """Run, print the tables, and the JSON document last."""
    parser = timing.arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SHAPES), help=f"of {', '.join(SHAPES)} (all)")
    parser.add_argument("--lengths", nargs="+", type=int, default=[256, 1024], help="sequence lengths (256 1024)")
    parser.add_argument("--seconds", type=float, default=100.0, help="for the turns of one cell, about (100)")
    parser.add_argument("--only", nargs="+", default=list(CONTESTANTS), help=f"of {', '.join(CONTESTANTS)} (all)")
    parser.add_argument("--set", nargs="+", default=[], help="more recipe settings for the trainer, KEY=VALUE (none)")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        gate, shape, length = Gate(), shape_of(args.sizes[0]), args.lengths[0]
        if args.contestant == "transformers":
            run_transformers(gate, shape, length)
        elif args.contestant == "products":
            run_products(gate, shape)
        else:
            masked = args.contestant == "meap"
            run_trainer(gate, shape, length, folder=args.folder, masked=masked, extra=args.set)
        return 0
    cells = []
    for size in ["quick"] if args.quick else args.sizes:
        for length in [32] if args.quick else args.lengths:
            shape = shape_of(size)
            # One turn at about 70 GFLOP/s and core.
            turn = len(args.only) * (shape.linear_flops() + shape.attention_flops(length)) / THREADS / 70e9
            turns = 3 if args.quick else max(3, min(60, int(args.seconds / turn)))
            extra = ["--set", *args.set] if args.set else []
            found = measure(size, length, turns=turns, warm=1 if turn > 20 else 2, names=tuple(args.only), extra=extra)
            cells.append(summary(size, length, found) | {"turns": turns})
            print_cell(cells[-1])
    return timing.publish(
        "step",
        quick=args.quick,
        ratios=ratios(cells),
        packages=("torch", "transformers", "megatron-core"),
        threads=THREADS,
        cells=cells,
    )


if __name__ == "__main__":
    sys.exit(main())
