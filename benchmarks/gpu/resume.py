"""Check e: a run that is interrupted and resumed equals one that is not, to the last bit, with `deterministic_mode`."""

from benchmarks.gpu import data
from benchmarks.gpu.session import Session
from benchmarks.gpu.trainer import NO_COMPILER, settings, train
from meap_megatron.launch.environment import SCALING_HISTORY

STEPS = 20
FIELDS = ("lm_loss", "masked_loss", "other_loss", "grad_norm", "learning_rate")


def run(session: Session) -> None:
    """Compare in every format that the machine has."""
    formats = ["bf16"] if session.on_gpu else ["fp32"]
    formats += [name for name in session.machine().get("fp8_recipes", []) if session.on_gpu]
    options = [*settings(session), data.text(session), f"train_iters={STEPS}", "deterministic_mode=true", NO_COMPILER]
    if session.on_gpu:
        options.append("use_distributed_optimizer=true")
    half = STEPS // 2
    whole = {
        name: train(session, f"{name} whole", *options, f"precision={name}", f"save_interval={half}")
        for name in formats
    }
    for one in whole.values():
        one.wait()
    resumed = {
        name: train(
            session, f"{name} resumed", *options, f"precision={name}", f"load={one.folder}", f"ckpt_step={half}",
            environ={SCALING_HISTORY: "1"},
        )
        for name, one in whole.items()
    }  # fmt: skip
    for name, one in resumed.items():
        again = one.wait().steps()
        expected = {step: record for step, record in whole[name].steps().items() if step > half}
        differing = [
            step
            for step, record in expected.items()
            if step not in again or any(again[step][kind] != record[kind] for kind in FIELDS)
        ]
        session.add(f"{name}: steps after the resume", len(again), equals=STEPS - half)
        session.add(f"{name}: interrupted resume matches to the bit", not differing, equals=True)
        session.detail(name, {"differing steps": differing})
