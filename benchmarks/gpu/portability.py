"""Check i: a checkpoint of the GPU continues on a CPU, and one of a CPU on the GPU."""

from benchmarks.gpu import data
from benchmarks.gpu.parity import largest_relative
from benchmarks.gpu.session import Session
from benchmarks.gpu.trainer import NO_COMPILER, NO_TF32, settings, train

STEPS = 8
TOLERANCE = 1e-4


def run(session: Session) -> None:
    """Train on each device, and continue each from its middle on the other, in float32."""
    half = STEPS // 2
    options = [*settings(session), data.text(session), f"train_iters={STEPS}", "precision=fp32", NO_COMPILER]
    # The state of the optimizer must move too, which Megatron keeps in one form with the distributed optimizer only.
    options += ["use_distributed_optimizer=true", "dist_ckpt_optim_fully_reshardable=true"]
    pairs = {"CPU": "cpu", "GPU": "cuda"} if session.on_gpu else {"CPU": "cpu"}
    wholes = {
        name: train(session, f"{name} whole", *options, f"save_interval={half}", device=device, environ=NO_TF32)
        for name, device in pairs.items()
    }
    for one in wholes.values():
        one.wait()
    ways = [(a, b) for a in pairs for b in pairs if a != b] or [("CPU", "CPU")]
    continued = {
        (origin, target): train(
            session, f"{origin} to {target}", *options, f"load={wholes[origin].folder}", f"ckpt_step={half}",
            device=pairs[target], environ=NO_TF32,
        )
        for origin, target in ways
    }  # fmt: skip
    for (origin, target), one in continued.items():
        one.wait()
        for kind in ("lm_loss", "grad_norm"):
            difference = largest_relative(one.field(kind), wholes[origin].field(kind)[half:])
            name = f"{origin} checkpoint continued on the {target}: {kind.replace('_', ' ')}"
            session.add(name, difference, "relative", at_most=TOLERANCE)
