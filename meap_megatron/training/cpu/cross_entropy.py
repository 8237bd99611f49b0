"""Cross-entropy over a vocabulary that tensor-parallel ranks share, for a CPU: one pass over the logits, not seven.

Megatron's own runs max, subtract, exp, sum, divide and two gathers over all logits, one after the other: at a vocabulary of
20,000 each of them is 150 MB from memory and back. Here a block of rows goes through all of them in the second-level cache,
with the maximum of this rank alone; the ranks' sums are brought to the common maximum afterwards, one number per row. The
division waits for the backward pass, where it is part of the factor of each row.

Shapes: s sequence, b batch, v vocabulary of this rank, n = s * b rows.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from meap_megatron.training.cpu.kernels import rows_per_block


class CrossEntropy(torch.autograd.Function):
    """Loss of every position; works in the memory of the logits, as Megatron's does."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, target: torch.Tensor, group: Any) -> torch.Tensor:
        """Return float32[s, b] in nats.

        Args:
            logits: float32[s, b, v], overwritten.
            target: int64[s, b], ids of the whole vocabulary.
            group: the tensor-parallel group; this rank holds the ids from rank * v.
        """
        size = logits.size(-1)
        rows = logits.detach().view(-1, size)
        ids = target.reshape(-1, 1) - group.rank() * size
        elsewhere = (ids < 0) | (ids >= size)
        ids = ids.masked_fill(elsewhere, 0)
        highest, sums, chosen = (rows.new_empty(rows.size(0), 1) for _ in range(3))
        count = rows_per_block(rows)
        parts = (x.split(count) for x in (rows, ids, highest, sums, chosen))
        for row, index, top, total, logit in zip(*parts, strict=True):
            torch.amax(row, 1, keepdim=True, out=top)
            row.sub_(top)
            torch.gather(row, 1, index, out=logit)
            row.exp_()
            torch.sum(row, 1, keepdim=True, out=total)
        scales = 1.0
        if group.size() > 1:
            common = highest.clone()
            dist.all_reduce(common, op=dist.ReduceOp.MAX, group=group)
            chosen.add_(highest).sub_(common).masked_fill_(elsewhere, 0.0)
            scales = highest.sub_(common).exp_()
            sums.mul_(scales)
            dist.all_reduce(chosen, op=dist.ReduceOp.SUM, group=group)
            dist.all_reduce(sums, op=dist.ReduceOp.SUM, group=group)
        ctx.save_for_backward(rows, ids, elsewhere, scales / sums)
        return sums.log().sub_(chosen).view(target.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return float32[s, b, v]: grad * (softmax - one-hot of the target)."""
        rows, ids, elsewhere, factors = ctx.saved_tensors
        grads = grad.reshape(-1, 1)
        rows.mul_(factors * grads)
        rows.scatter_add_(1, ids, grads.masked_fill(elsewhere, 0.0).neg_())
        return rows.view(*grad.shape, -1), None, None


def cross_entropy_on_cpu(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wrap Megatron's `vocab_parallel_cross_entropy`: float32 without label smoothing is ours."""

    def vocab_parallel_cross_entropy(
        vocab_parallel_logits: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0, tp_group: Any = None
    ) -> torch.Tensor:
        if label_smoothing or tp_group is None or vocab_parallel_logits.dtype != torch.float32:
            return original(vocab_parallel_logits, target, label_smoothing, tp_group)
        return CrossEntropy.apply(vocab_parallel_logits, target, tp_group)

    return vocab_parallel_cross_entropy
