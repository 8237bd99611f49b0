"""A plan as text and as JSON, with units, and with what it does not know."""

import textwrap
from dataclasses import asdict
from typing import Any

from meap_megatron.errors import counted
from meap_megatron.formats import aligned
from meap_megatron.planning.layout import FULL, NONE, SELECTIVE
from meap_megatron.planning.memory import megatrons_figure, of_stage
from meap_megatron.planning.search import CLOSE, Plan, Result
from meap_megatron.planning.step import Step

GB = 1e9
ROWS = 10
WIDTH = 118
UNKNOWN = (
    "Arithmetic, not a measurement: no run of this project was timed on a GPU yet. The same arithmetic comes within 10 % "
    "of 39 published runs of dense models of 1.7B to 1T parameters on NVIDIA's own machines, eight GPUs and eight network "
    "cards each (docs/planning.md). It does not know slower networks, PCIe cards, data that comes late, checkpoints and "
    "evaluations, gaps in the allocator, other jobs on the network; for layers so small that starting their kernels "
    "takes longest it guesses."
)
RECOMPUTED = {NONE: "-", SELECTIVE: "mlp", FULL: "layers"}


def sizes(plan: Plan) -> str:
    """Return the layout on one line."""
    layout = plan.layout
    parts = [f"TP {layout.tensor}", f"PP {layout.pipeline}", f"CP {layout.context}", f"DP {layout.data}"]
    if layout.virtual > 1:
        parts.append(f"{layout.virtual} chunks per stage")
    return ", ".join(parts)


def columns(plan: Plan) -> list[str]:
    """Return the cells of one row."""
    layout = plan.layout
    sent = sum(plan.step.sent.values()) / GB
    return [
        f"{layout.tensor}",
        f"{layout.pipeline}",
        f"{layout.context}",
        f"{layout.data}",
        f"{layout.virtual}" if layout.virtual > 1 else "-",
        f"{layout.micro_batch} x {layout.num_micro_batches}",
        RECOMPUTED[layout.recompute],
        f"{plan.memory.total / GB:.1f}",
        f"{plan.step.bubble_fraction:.1%}",
        f"{sent:.1f}" if sent < 100 else f"{sent:,.0f}",
        f"{plan.seconds:.3f}" if plan.seconds < 10 else f"{plan.seconds:.1f}",
        f"{plan.mfu:.1%}",
        tokens(plan.tokens_per_second * 86_400),
        "?" if plan.gpu_hours is None else number(plan.gpu_hours),
        "?" if plan.days is None else number(plan.days),
    ]


HEADER = "TP|PP|CP|DP|VP|micro-batch|again|GB/GPU|bubble|GB sent|s/step|MFU|tokens/day|GPU-h|days".split("|")


def number(value: float) -> str:
    """Return a number with three digits that matter."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tokens(value: float) -> str:
    """Return a number of tokens in B or M."""
    return f"{number(value / 1e9)} B" if value >= 1e9 else f"{number(value / 1e6)} M"


def as_text(result: Result, *, rows: int = ROWS) -> str:
    """Return the report."""
    best = result.best
    job, model = best.job, best.model
    trained = "tokens in all unknown (--tokens N)" if job.tokens is None else f"{tokens(job.tokens)} tokens in all"
    lines = [
        f"{job.recipe.path} on {best.layout.gpus} x {best.gpu.name}",
        f"{counted(model.parameters, 'parameter')}, {counted(model.vocabulary, 'row')} of vocabulary; "
        f"{counted(job.global_batch, 'sequence')} of "
        f"{job.seq_length:,} per step ({job.tokens_per_step:,} tokens), {trained}; {'FP8' if job.fp8 else 'bfloat16'}",
        *(f"note: {note}" for note in job.notes),
        "",
        f"{result.valid:,} layouts are valid, {result.fit:,} fit into {best.gpu.memory / GB:g} GB per GPU; the fastest of "
        "each TP x PP x CP:",
        "",
    ]
    shown = result.fitting[:rows]
    if best not in shown:
        shown = [*shown[: rows - 1], best]
    table = [[" ", *HEADER], *([">" if plan is best else " ", *columns(plan)] for plan in shown)]
    if result.own is not None:
        table.append(["r", *columns(result.own)])
    lines += aligned(table)
    lines += ["", *wrapped(legend(result)), "", *(line for text in reasons(result) for line in wrapped(text)), ""]
    lines += [
        *(line for text in (*memory_lines(best), *time_lines(best)) for line in wrapped(text)),
        "",
        *wrapped(UNKNOWN),
    ]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Return the lines of a paragraph."""
    return textwrap.wrap(text, width=WIDTH, break_on_hyphens=False)


def legend(result: Result) -> str:
    """Return what the columns mean, and what holds for all layouts of the table."""
    sharded = "with" if result.best.layout.distributed_optimizer else "without"
    text = (
        "VP: model chunks per stage (interleaved). micro-batch: sequences x how many per step. again: what the backward "
        "pass computes again. GB: 10^9 bytes; sent: per GPU and step. TP above 1 has sequence parallel; all are "
        f"{sharded} the distributed optimizer."
    )
    own = result.own
    if own is None:
        return text
    fits = "" if own.memory.total <= own.gpu.memory else ", which does not fit"
    return f"{text} r: the recipe's own layout={own.layout.gpus}{fits}."


def reasons(result: Result) -> list[str]:
    """Return two sentences on why the chosen layout was chosen."""
    best, first = result.best, result.fitting[0]
    behind = best.seconds / first.seconds - 1
    what = f"Chosen: {sizes(best)}, micro-batch {best.layout.micro_batch}"
    if best.layout.recompute != NONE:
        what += f", computing {'whole layers' if best.layout.recompute == FULL else 'feed-forward parts'} again"
    why = "the fastest that fits" if best is first else f"within {behind:.1%} of the fastest that fits, and simpler"
    costs = {
        "tensor-parallel communication": best.step.tensor,
        "computing activations again": best.step.recompute,
        "the pipeline bubble": best.step.bubble,
        "data-parallel communication": best.step.data,
        "norms and other elementwise work": best.step.elementwise,
        "attention": best.step.attention,
        "the output layer and the loss": best.step.head,
        "starting kernels of tiny layers": best.step.host,
    }
    costliest = max(costs, key=lambda name: costs[name])
    return [
        f"{what}: {why} (estimates within {CLOSE:.0%} count as equal).",
        f"Of a step {best.step.matrices / best.seconds:.0%} are matrix products of the layers, most of the rest is "
        f"{costliest} ({costs[costliest] / best.seconds:.0%}), and {(best.gpu.memory - best.memory.total) / GB:.1f} GB per "
        "GPU stay free.",
    ]


def memory_lines(plan: Plan) -> list[str]:
    """Return the parts of the memory of the fullest stage, and Megatron's own figure for the first."""
    memory = plan.memory
    parts = ("parameters", "gradients", "optimizer", "activations", "logits", "buffers")
    where = f" (stage {memory.stage} of {plan.layout.pipeline}, the fullest)" if plan.layout.pipeline > 1 else ""
    sums = " + ".join(f"{name} {getattr(memory, name) / GB:.1f}" for name in parts)
    lines = [f"memory per GPU{where}: {sums} = {memory.total / GB:.1f} GB"]
    if (beside := beside_megatron(plan)) is not None:
        ours, theirs = beside
        text = (
            f"Megatron's own formula gives {theirs / GB:.1f} GB for the first stage, where this count without buffers "
            f"gives {ours / GB:.1f} ({ours / theirs - 1:+.1%})"
        )
        if ours > 1.05 * theirs and plan.model.gated:
            text += ": it takes 4 bytes per feed-forward channel, token and layer, and SwiGLU keeps 6"
        lines.append(text)
    return lines


def beside_megatron(plan: Plan) -> tuple[float, float] | None:
    """Return the bytes of the first stage without buffers, and those of Megatron's formula, if it knows such a layout."""
    theirs = megatrons_figure(plan.model, plan.layout, seq_length=plan.job.seq_length)
    if theirs is None:
        return None
    first = of_stage(plan.model, plan.layout, seq_length=plan.job.seq_length, stage=0, fp8=plan.job.fp8)
    return first.counted, theirs


def time_parts(step: Step) -> dict[str, float]:
    """Return the seconds of a step by name."""
    return {name: value for name, value in vars(step).items() if isinstance(value, float)}


def time_lines(plan: Plan) -> list[str]:
    """Return the parts of a step's time, and what is sent."""
    times = ", ".join(
        f"{name} {value:.3f}" for name, value in time_parts(plan.step).items() if value >= 0.0005 * plan.seconds
    )
    sent = ", ".join(f"{name} {value / GB:.2f}" for name, value in plan.step.sent.items() if value > 0)
    return [f"seconds per step: {times}", f"sent per GPU and step: {sent or 'nothing'}{' GB' if sent else ''}"]


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return one plan for JSON: bytes, seconds, tokens."""
    beside = beside_megatron(plan)
    return {
        "layout": asdict(plan.layout),
        "overrides": plan.layout.settings(),
        "memory_bytes": {**asdict(plan.memory), "total": plan.memory.total},
        "first_stage_bytes": None if beside is None else {"counted": beside[0], "megatrons_formula": beside[1]},
        "seconds_per_step": plan.seconds,
        "seconds": time_parts(plan.step),
        "sent_bytes_per_gpu_and_step": plan.step.sent,
        "bubble_fraction": plan.step.bubble_fraction,
        "mfu": plan.mfu,
        "tokens_per_second_per_gpu": plan.tokens_per_second / plan.layout.gpus,
        "tokens_per_day": plan.tokens_per_second * 86_400,
        "days": plan.days,
        "gpu_hours": plan.gpu_hours,
    }


def as_json(result: Result, *, rows: int = ROWS) -> dict[str, Any]:
    """Return the report for JSON."""
    best = result.best
    job = best.job
    return {
        "recipe": str(job.recipe.path),
        "gpu": best.gpu.name,
        "gpus": best.layout.gpus,
        "memory_bytes_per_gpu": best.gpu.memory,
        "parameters": best.model.parameters,
        "vocabulary": best.model.vocabulary,
        "tokens": job.tokens,
        "tokens_per_step": job.tokens_per_step,
        "notes": job.notes,
        "valid": result.valid,
        "fit": result.fit,
        "best": as_dict(best),
        "layouts": [as_dict(plan) for plan in result.fitting[:rows]],
        "recipe_layout": None if result.own is None else as_dict(result.own),
        "unknown": UNKNOWN,
    }
