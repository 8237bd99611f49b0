"""All checks, the most valuable first."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu import (
    answers,
    fine_tuning,
    machine,
    packed,
    parity,
    peer,
    portability,
    resume,
    speed,
    whole_path,
)
from benchmarks.gpu.session import Session


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check: what it proves, and what it is expected to take."""

    letter: str
    title: str
    run: Callable[[Session], None]
    seconds: float
    """Expected on one H100 with 16 processor cores; an estimate until somebody has run it."""
    alone: bool = False
    """Whether it times something, so that nothing else may run on the card."""

    @property
    def limit(self) -> float:
        """Seconds after which it is ended."""
        return max(90.0, 2.5 * self.seconds)


def _throughput(size: str, precision: str, seconds: float) -> Check:
    return Check(
        letter="f, g",
        title=f"throughput, MFU and memory of {size.upper()} in {precision}, and `meap plan` beside them",
        run=partial(speed.throughput, size=size, precision=precision),
        seconds=seconds,
        alone=True,
    )


def _ratio(size: str, seconds: float) -> Check:
    return Check(
        letter="f",
        title=f"a MEAP step against an NTP step at {size.upper()}, in turns",
        run=partial(speed.ratio, size=size),
        seconds=seconds,
        alone=True,
    )


CHECKS: dict[str, Check] = {
    "machine": Check(
        letter="a", title="the machine: versions, product and copy rates", run=machine.run, seconds=12, alone=True
    ),
    "whole_path": Check(letter="b", title="train, evaluate, save, verify, resume", run=whole_path.run, seconds=60),
    "parity": Check(letter="c", title="every way to compute trains the same model", run=parity.run, seconds=70),
    "packed": Check(
        letter="d", title="packed rows equal their conversations, no leak between segments", run=packed.run, seconds=35
    ),
    "resume": Check(letter="e", title="interrupted resume matches to the bit", run=resume.run, seconds=50),
    "portability": Check(
        letter="i", title="checkpoints continue on the other device", run=portability.run, seconds=40
    ),
    "answers": Check(letter="j", title="`meap evaluate` gives the CPU's answers", run=answers.run, seconds=45),
    "throughput_1.1b_bf16": _throughput("1.1b", "bf16", 35),
    "ratio_1.1b": _ratio("1.1b", 45),
    "throughput_1.1b_fp8": _throughput("1.1b", "fp8-tensorwise", 35),
    "throughput_0.1b_bf16": _throughput("0.1b", "bf16", 25),
    "transformers": Check(
        letter="f", title="Transformers' Llama with torch.compile at 1.1B", run=peer.run, seconds=95, alone=True
    ),
    "throughput_0.5b_bf16": _throughput("0.5b", "bf16", 25),
    "ratio_0.1b": _ratio("0.1b", 35),
    "throughput_0.3b_bf16": _throughput("0.3b", "bf16", 25),
    "fusions": Check(
        letter="h", title="fused and unfused cross-entropy and gradients", run=speed.fusions, seconds=75, alone=True
    ),
    "throughput_0.5b_fp8": _throughput("0.5b", "fp8-tensorwise", 25),
    "throughput_0.1b_fp8": _throughput("0.1b", "fp8-tensorwise", 25),
    "throughput_0.3b_fp8": _throughput("0.3b", "fp8-tensorwise", 25),
    "throughput_1.1b_fp8_delayed": _throughput("1.1b", "fp8-delayed", 30),
    "fine_tuning": Check(letter="k", title="a real model is fine-tuned", run=fine_tuning.run, seconds=90, alone=True),
}
