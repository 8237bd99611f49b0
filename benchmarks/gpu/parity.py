"""Check c: from one checkpoint, every way to compute trains the same model."""

from dataclasses import dataclass, field

from benchmarks.gpu import data
from benchmarks.gpu.process import TORCH_ALONE
from benchmarks.gpu.session import Session
from benchmarks.gpu.trainer import NO_COMPILER, NO_TF32, Run, settings, train

STEPS = 20
FIELDS = ("lm_loss", "masked_loss", "other_loss")


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to compute, and how far its losses may be from float32 on a CPU, relatively, at any of the steps."""

    options: tuple[str, ...] = ()
    device: str = "cuda"
    environ: dict[str, str] = field(default_factory=dict)
    tolerance: float


DISTRIBUTED = "use_distributed_optimizer=true"


def ways(session: Session) -> dict[str, Way]:
    """Return the ways that this machine has."""
    if not session.on_gpu:
        return {"CPU bf16": Way(options=("precision=bf16",), device="cpu", tolerance=2e-3)}
    machine = session.machine()
    found = {
        "GPU fp32, torch only": Way(options=("precision=fp32",), environ=NO_TF32 | TORCH_ALONE, tolerance=1e-5),
        "GPU bf16, torch only": Way(options=("precision=bf16", DISTRIBUTED), environ=TORCH_ALONE, tolerance=2e-3),
    }
    if machine.get("engine") == "loads":
        found |= {
            "GPU fp32": Way(options=("precision=fp32",), environ=NO_TF32, tolerance=1e-4),
            "GPU fp32, TF32 allowed": Way(options=("precision=fp32",), tolerance=1e-3),
            "GPU bf16": Way(options=("precision=bf16", DISTRIBUTED), tolerance=2e-3),
        }
        for precision in machine.get("fp8_recipes", []):
            found[f"GPU {precision}"] = Way(options=(f"precision={precision}", DISTRIBUTED), tolerance=2e-2)
    return found


def run(session: Session) -> None:
    """Make the checkpoint on a CPU, then train 20 steps in every way at the same time."""
    options = [*settings(session), data.text(session)]
    start = train(session, "start", *options, "train_iters=1", "save_interval=1", device="cpu").wait()
    common = [*options, f"train_iters={STEPS}", f"pretrained_checkpoint={start.folder}", NO_COMPILER]
    reference = train(session, "CPU fp32", *common, device="cpu", save=False)
    runs: dict[str, tuple[Way, Run]] = {}
    for name, way in ways(session).items():
        started = train(session, name, *common, *way.options, device=way.device, environ=way.environ, save=False)
        runs[name] = (way, started)
    reference.wait()
    failures = []
    for name, (way, one) in runs.items():
        try:
            one.wait()
        except RuntimeError as error:  # the others still count
            failures.append(str(error))
            session.add(f"{name}: loss", None, at_most=way.tolerance)
            continue
        compare(session, name, way, one, reference)
    session.detail("reference", {name: reference.field(name) for name in FIELDS})
    if failures:
        raise RuntimeError("\n\n".join(failures))


def compare(session: Session, name: str, way: Way, one: Run, reference: Run) -> None:
    """Note how far a way is from the reference."""
    for kind in FIELDS:
        largest = largest_relative(one.field(kind), reference.field(kind))
        session.add(f"{name}: {kind.replace('_', ' ')}", largest, "relative", at_most=way.tolerance)
    norm = largest_relative(one.field("grad_norm"), reference.field("grad_norm"))
    session.add(f"{name}: gradient norm", norm, "relative")
    session.detail(name, {kind: one.field(kind) for kind in (*FIELDS, "grad_norm")})


def largest_relative(values: list[float], expected: list[float]) -> float:
    """Return the largest relative difference; NaN if a step is missing."""
    if len(values) != len(expected) or not values or None in values or None in expected:
        return float("nan")
    return max(abs(a / b - 1) for a, b in zip(values, expected, strict=True))
