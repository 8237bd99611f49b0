"""The floating-point operations of steps whose samples hold segments, for MFU and Megatron's own throughput.

Attention inside segments costs the sum of their squared lengths, not the square of a row, and padding is not work. Megatron
has formulas for both numbers and nothing that counts them: the rank that reads a micro-batch knows them on the host, so that
counting costs no launch, and once per step they are added up over the job, where Megatron asks for them.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Numbers = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class SegmentWork:
    """What the segments of a micro-batch cost: floating-point operations grow with both numbers."""

    tokens: int
    """Positions that are not padding."""
    squares: int
    """Sum of the squared lengths of the segments, padding left out."""


class StepWork:
    """Counts on one rank, and adds up over all of them at the end of a step."""

    def __init__(self) -> None:
        self.tokens, self.squares = 0, 0
        self.ended = 0
        self.sums = (0.0, 0.0)

    def add(self, work: SegmentWork) -> None:
        """Count a micro-batch; only on one of the ranks and virtual stages that read the same samples."""
        self.tokens += work.tokens
        self.squares += work.squares

    def end_step(self) -> tuple[float, float]:
        """Return what the whole job has counted since the last call; every rank has to call it."""
        totals = torch.tensor([self.tokens, self.squares], dtype=torch.float64, device=torch.cuda.current_device())
        torch.distributed.all_reduce(totals)
        self.tokens, self.squares = 0, 0
        tokens, squares = totals.tolist()
        self.ended += 1
        self.sums = (self.sums[0] + tokens, self.sums[1] + squares)
        return tokens, squares

    def mean(self) -> Numbers:
        """Return the mean over the steps that have ended since the last call; (None, None) if none counted anything."""
        if not self.ended:
            return None, None
        tokens, squares = self.sums[0] / self.ended, self.sums[1] / self.ended
        self.ended, self.sums = 0, (0.0, 0.0)
        return tokens, squares


STEP = StepWork()
"""Of this process."""


def counted(consume: Callable[[], Numbers]) -> Callable[[], Numbers]:
    """Wrap `consume_seqlen_stats_in_iteration`, which `train` calls on every rank at the end of a step."""

    @functools.wraps(consume)
    def consume_seqlen_stats_in_iteration() -> Numbers:
        from megatron.training import get_args

        return STEP.end_step() if get_args().dataloader_inter_document_masking else consume()

    return consume_seqlen_stats_in_iteration


def flops_of_step(args: Any) -> float:
    """Return the operations of the whole job in a step, as Megatron counts them: a mean over those since the last call."""
    from megatron.training.training import num_floating_point_operations

    tokens, squares = STEP.mean()
    return float(
        num_floating_point_operations(
            args, args.global_batch_size, seqlen_squared_sum_in_batch=squares, total_real_tokens_in_batch=tokens
        )
    )
