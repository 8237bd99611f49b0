"""Checks f, g, h: throughput, MFU and memory of the paper's sizes, the planner beside them, MEAP against NTP, fusions."""

import statistics
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu import data, trainer
from benchmarks.gpu.session import NotApplicable, Session
from benchmarks.gpu.trainer import Run, median_late, train
from benchmarks.gpu.turns import take_turns

STEPS, WARM = 12, 3
TURNS = 12
SEQUENCE = 4096


@dataclass(frozen=True, kw_only=True)
class Size:
    """A recipe of the paper on one card of 80 GB."""

    micro: int
    """Sequences of a micro-batch."""
    count: int
    """Micro-batches of a step."""


SIZES = {
    "0.1b": Size(micro=16, count=2),
    "0.3b": Size(micro=8, count=2),
    "0.5b": Size(micro=8, count=2),
    "1.1b": Size(micro=4, count=4),
}
TOKENS_PER_SECOND = {"0.1b": 420_000.0, "0.5b": 100_000.0, "1.1b": 45_000.0}
"""To reach on one H100 in bfloat16."""
FP8_GAIN = 1.10
"""To reach at 1.1B."""
PLAN_TIME, PLAN_MEMORY = 0.15, 0.10
"""How far `meap plan` may be off."""


def recipe(size: str, arm: str) -> Any:
    """Return the path of a recipe, and the job that the planner reads."""
    return trainer.RECIPES / "pretrain" / f"llama_{size}_{arm}.yaml"


def start(
    session: Session,
    name: str,
    size: str,
    *options: str,
    arm: str = "meap",
    halved: bool = False,
    steps: int = STEPS,
    gate: Connection | None = None,
    profile: bool = False,
) -> Run:
    """Start a run of a size that is watched.

    Args:
        session: of the check.
        name: of the run.
        size: of `SIZES`.
        options: more overrides.
        arm: "meap" or "ntp".
        halved: micro-batches of half the size and twice as many, so that two runs fit on a card.
        steps: to run.
        gate: see `turns`.
        profile: run the step before the last under torch's profiler.
    """
    if session.quick:
        ratio = "meap_mask_ratio=0.15" if arm == "meap" else "meap_mask_ratio=0.0"
        tiny = [
            *trainer.settings(session),
            data.text(session),
            ratio,
            f"train_iters={steps}",
            "eval_iters=0",
            *options,
        ]
        watched = {"micro_batches": 2, "gate": gate, "profile_step": steps - 2 if profile else None}
        return train(session, name, *tiny, save=False, **watched)
    settings = [data.random_ids(session), *overrides(size, halved=halved, steps=steps), *options]
    return train(
        session, name, *settings, recipe=recipe(size, arm), save=False, micro_batches=batch(size, halved=halved)[1],
        gate=gate, profile_step=steps - 2 if profile else None,
    )  # fmt: skip


def overrides(size: str, *, halved: bool = False, steps: int = STEPS) -> list[str]:
    """Return what is set over a recipe of the paper, except for the data."""
    micro, count = batch(size, halved=halved)
    return [
        f"train_iters={steps}", f"global_batch_size={micro * count}", f"micro_batch_size={micro}", "eval_iters=0",
        "split=1,0,0", "save_interval=100000", "log_interval=1", "num_workers=2", "nproc=1",
    ]  # fmt: skip


def batch(size: str, *, halved: bool = False) -> tuple[int, int]:
    """Return the sequences of a micro-batch and the micro-batches of a step."""
    one = SIZES[size]
    return (one.micro // 2, one.count * 2) if halved else (one.micro, one.count)


def tokens_per_step(session: Session, size: str) -> int:
    """Return the tokens of a step."""
    if session.quick:
        return 8 * 256 if session.on_gpu else 4 * 64
    return SIZES[size].micro * SIZES[size].count * SEQUENCE


def throughput(session: Session, size: str, precision: str) -> None:
    """Measure one size in one format, alone on the card."""
    if not session.on_gpu and precision != "bf16":
        raise NotApplicable("not applicable on cpu: FP8 needs a GPU")
    machine = session.machine()
    if precision.startswith("fp8") and precision not in machine.get("fp8_recipes", []):
        raise NotApplicable(f"{precision} needs Transformer Engine and a GPU with FP8")
    if precision == "fp8-delayed" and size == "0.3b":
        raise NotApplicable("0.3B has no FP8")
    run = start(session, "run", size, f"precision={precision}", profile=True, steps=STEPS + 2).wait()
    seen = run.watched
    # The profiled step and the last are left out.
    seconds = median_late(seen["step_seconds"][: STEPS - 1], skip=WARM)
    rate = tokens_per_step(session, size) / seconds
    goal: dict[str, Any] = {}
    if session.is_h100 and precision == "bf16" and size in TOKENS_PER_SECOND:
        goal = {"at_least": TOKENS_PER_SECOND[size], "target": True}
    session.add("tokens/s", rate, "tokens/s", **goal)
    session.add("step", seconds, "s")
    mfus, times = run.field("mfu")[WARM:STEPS], run.field("seconds")[WARM:STEPS]
    if mfus and None not in mfus:
        # FLOP of a step over the peak is the same at every step: MFU follows from our clock, data included.
        work = statistics.median(mfu * spent for mfu, spent in zip(mfus, times, strict=True))
        session.add("MFU", work / seconds)
        peak = run.records("start")[0]["run"].get("peak_tflops_per_device")
        if peak:
            session.add("model TFLOP/s", work / seconds * peak, "TFLOP/s")
    waits = seen["wait_seconds"]
    session.add("wait for data, median", 1e3 * median_late(waits, skip=WARM), "ms", **waits_bound(session))
    session.add("wait for data, longest", 1e3 * max(waits[WARM:], default=float("nan")), "ms")
    for kind in ("allocated", "reserved"):
        if (bytes_ := seen.get(f"peak_{kind}_bytes")) is not None:
            session.add(f"peak memory, {kind}", bytes_ / 1e9, "GB")
    session.add("to the first step", seen["seconds_to_first_step"], "s")
    if precision == "fp8-tensorwise" and size == "1.1b":
        before = session.earlier("throughput_1.1b_bf16", "tokens/s")
        gain = rate / before if before else None
        session.add("FP8 / BF16", gain, at_least=FP8_GAIN, target=True)
    planned(session, size, precision, seconds=seconds, peak=seen.get("used_on_device_bytes"))
    session.detail("attention", run.attention())
    session.detail("step seconds", seen["step_seconds"])
    session.detail("profile", seen["profile"])


def waits_bound(session: Session) -> dict[str, Any]:
    """Return the rule for data waits: none that counts on a GPU."""
    return {"at_most": 1.0} if session.on_gpu and not session.quick else {}


def planned(session: Session, size: str, precision: str, *, seconds: float, peak: int | None) -> None:
    """Note what `meap plan` says of the same cell, beside what was measured."""
    from meap_megatron.planning import gpus, job, search

    if session.quick:
        size = "0.1b"
    names = [kind for kind in ("h200", "h100", "a100", "b200") if kind in str(session.machine().get("gpu")).lower()]
    gpu = gpus.find(names[0] if names else "h100")
    micro, count = batch(size)
    options = [f"precision={precision}", f"global_batch_size={micro * count}"]
    work = job.read(recipe(size, "meap"), options, vocabulary=data.RANDOM_VOCABULARY + 1)
    layout = next(one for one in search.layouts(work, gpus=1, node=1) if one.micro_batch == micro)
    plan = search.price(work, gpu, layout)
    applies = bool(names) and not session.quick
    session.add(f"`meap plan` for {gpu.name}: step", plan.seconds, "s")
    session.add("`meap plan`: memory", plan.memory.total / 1e9, "GB")
    if applies:
        off = {"at_least": -PLAN_TIME, "at_most": PLAN_TIME, "target": True}
        session.add("planned / measured time - 1", plan.seconds / seconds - 1, **off)
        if peak:
            off = {"at_least": -PLAN_MEMORY, "at_most": PLAN_MEMORY, "target": True}
            session.add("planned / measured memory - 1", plan.memory.total / peak - 1, **off)


def ratio(session: Session, size: str) -> None:
    """Let MEAP and NTP take their steps in turns; both are on the card, with micro-batches of half the size."""
    turns = 4 if session.quick else TURNS
    starts = {
        arm: lambda gate, arm=arm: start(session, arm, size, arm=arm, halved=True, steps=WARM + turns + 1, gate=gate)
        for arm in ("meap", "ntp")
    }
    found = take_turns(starts, turns=turns, warm=WARM)
    ratios = [meap / ntp for meap, ntp in zip(found["meap"], found["ntp"], strict=True)]
    middle = statistics.median(ratios)
    bounds = {} if session.quick or not session.on_gpu else {"at_least": 0.99, "at_most": 1.01, "target": True}
    session.add("MEAP / NTP, median of turns", middle, **bounds)
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    session.add("quartiles", f"{low:.4f} to {high:.4f}")
    for arm, seconds in found.items():
        session.add(f"{arm.upper()} step", statistics.median(seconds), "s")
    session.detail("step seconds", found)


def fusions(session: Session) -> None:
    """Measure a size with and without the fused cross-entropy and the fused accumulation of gradients."""
    if not session.on_gpu:
        raise NotApplicable("not applicable on cpu: both fusions are CUDA kernels")
    size = "0.1b"
    unfused_loss, unfused_gradients = "cross_entropy_loss_fusion=false", "no_gradient_accumulation_fusion=true"
    ways = {
        "as the recipe": [],
        "cross-entropy not fused": [unfused_loss],
        "gradient accumulation not fused": [unfused_gradients],
        "neither fused": [unfused_loss, unfused_gradients],
    }
    steps = {}
    for name, options in ways.items():
        run = start(session, name, size, *options, steps=STEPS).wait()
        steps[name] = median_late(run.watched["step_seconds"], skip=WARM)
        session.add(f"step, {name}", steps[name], "s")
        session.add(f"peak memory, {name}", run.watched["peak_allocated_bytes"] / 1e9, "GB")
    bounds = {"at_least": 1.0, "target": True} if session.is_h100 else {}
    session.add("neither fused / as the recipe", steps["neither fused"] / steps["as the recipe"], **bounds)
