"""Check b: the path a user takes, in interpreters of their own: train, evaluate, save, verify, resume."""

import math

from benchmarks.gpu import data
from benchmarks.gpu.session import Session
from benchmarks.gpu.trainer import run_meap, settings, train

STEPS = 4


def run(session: Session) -> None:
    """Take the path."""
    options = [*settings(session), data.text(session), f"save_interval={STEPS}"]
    if session.on_gpu:
        options += ["precision=bf16", "use_distributed_optimizer=true"]
    debug = {"NVTE_DEBUG": "1", "NVTE_DEBUG_LEVEL": "2"}
    fresh = not session.quick
    first = train(session, "run", *options, f"train_iters={STEPS}", fresh=fresh, environ=debug).wait()
    losses = first.field("lm_loss")
    session.add("steps", len(losses), equals=STEPS)
    session.add("losses are finite", all(map(math.isfinite, losses)), equals=True)
    session.add("evaluations", len(first.records("validation")), at_least=1)
    if session.on_gpu:
        session.add("MFU is reported", None not in first.field("mfu"), equals=True)
        session.add("attention", first.attention() or "torch")
    session.add(
        "`meap checkpoint verify`", run_meap(session, "verify", "checkpoint", "verify", first.folder), equals=0
    )
    again = train(
        session, "run", *options, f"train_iters={STEPS + 2}", "override_opt_param_scheduler=true", fresh=fresh
    )
    again.wait()
    session.add("resumed after step", again.records("start")[-1]["step"], equals=STEPS)
    session.add("steps after the resume", len(again.field("lm_loss")), equals=STEPS + 2)
    session.detail("losses", again.field("lm_loss"))
