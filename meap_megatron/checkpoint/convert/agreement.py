"""Whether the logits of two sides are those of one model, and which layer is the first that differs."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.errors import counted

TOLERANCE = 5e-5
"""Largest difference of two logits, in units of the largest logit. Measured: 1e-6 where all is right, 1.5e-1 with a wrong
rope factor; exchanged key heads of a model that has hardly been trained stay below 1e-3."""
STRAY_TOLERANCE, STRAYS = 10 * TOLERANCE, 1 / 64
"""What a few positions may differ by, and their share. A position whose hidden state is thousands of times larger than
what is left of it at the end (the first of a sequence, or behind a gap in the positions) magnifies rounding: one of 128
of a fine-tuned SmolLM2 differs by 1e-4, all others by 3e-6. What is converted wrongly is wrong at many positions."""
TOP1 = 0.99


@dataclass(frozen=True, kw_only=True)
class LogitComparison:
    """What a verification found.

    Attributes:
        layers: layers that were run, of `all_layers`.
        all_layers: layers of the model.
        tokens: positions whose logits were compared.
        last_position: the highest position.
        max_difference: largest absolute difference of two logits.
        strays: positions that differ by more than the tolerance.
        largest_logit: largest absolute logit.
        top1: share of positions at which both sides rank the same token first.
        first_layer: 0 for the embedding, n for layer n, the first whose output differs; None: none does.
    """

    layers: int
    all_layers: int
    tokens: int
    last_position: int
    max_difference: float
    strays: int
    largest_logit: float
    top1: float
    first_layer: int | None

    @property
    def agrees(self) -> bool:
        """Whether both sides are the same model."""
        few = self.strays <= STRAYS * self.tokens and self.max_difference <= STRAY_TOLERANCE * self.largest_logit
        return few and self.top1 >= TOP1

    def line(self) -> str:
        """Return one line for people."""
        part = "" if self.layers == self.all_layers else f" (first {self.layers} of {self.all_layers} layers)"
        return (
            f"logits of {self.tokens:,} positions up to {self.last_position:,}{part}: largest difference "
            f"{self.max_difference:.1e} of {self.largest_logit:.3g}, first choice equal at {self.top1:.2%}"
            + (f", rounding magnified at {counted(self.strays, 'position')}" if self.strays and self.agrees else "")
        )

    def record(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {**asdict(self), "agrees": self.agrees}


def compare(
    ours: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    *,
    spec: ModelSpec,
    sequences: list[dict[str, Any]],
    replaced: int | None = None,
) -> LogitComparison:
    """Compare both sides; rows that only one of them has, or that the import replaced, are left out."""
    largest = 0.0
    by_position: list[torch.Tensor] = []
    equal = tokens = 0
    first: int | None = None
    for one, other in zip(ours, theirs, strict=True):
        rows = [i for i in range(min(one["logits"].shape[1], other["logits"].shape[1])) if i != replaced]
        a, b = one["logits"][:, rows], other["logits"][:, rows]
        # A NaN on one side must not pass for equal.
        by_position.append((a - b).abs().nan_to_num(nan=float("inf")).amax(1))
        largest = max(largest, float(a.abs().max()))
        equal += int((a.argmax(1) == b.argmax(1)).sum())
        tokens += len(a)
        for layer, (x, y) in enumerate(zip(one["hidden"], other["hidden"], strict=True)):
            if not float((x - y).abs().max()) <= TOLERANCE * float(x.abs().max()):
                first = layer if first is None else min(first, layer)
                break
    apart = torch.cat(by_position)
    return LogitComparison(
        layers=len(ours[0]["hidden"]) - 1,
        all_layers=spec.num_layers,
        tokens=tokens,
        last_position=max(sequence["positions"][-1] for sequence in sequences),
        max_difference=float(apart.max()),
        strays=int((apart > TOLERANCE * largest).sum()),
        largest_logit=largest,
        top1=equal / tokens,
        first_layer=first,
    )
