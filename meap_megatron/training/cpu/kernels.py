"""RMSNorm, SwiGLU and rotary embedding for a CPU: a block of rows at a time, so that it stays in the second-level cache.

Each is one autograd function in float32 instead of five to ten: torch's own write every intermediate to memory, keep most of
them for the backward pass and allocate all in every step. What a kernel here keeps is its input and one number per row, or
one tensor. docs/benchmarks/step.md has what each gains.

Shapes: n rows (sequence x batch), h features, f features of the feed-forward layer, s sequence, d head size.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

BLOCK_BYTES = 2**19
"""Of one block of rows per thread: half of a usual second-level cache, for the two tensors of most operations."""


def takes(x: torch.Tensor) -> bool:
    """Tell whether the kernels of this file are made for a tensor: float32 on a CPU."""
    return x.dtype == torch.float32 and x.device.type == "cpu"


def rows_per_block(rows: torch.Tensor) -> int:
    """Return how many rows of float32[n, h] make one block."""
    return max(1, torch.get_num_threads() * BLOCK_BYTES // (4 * rows.size(-1)))


class RMSNorm(torch.autograd.Function):
    """x * rsqrt(mean(x^2) + eps) * weight over the last dimension of float32[..., h]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Normalise; keeps the input and one scale per row."""
        rows = x.reshape(-1, x.size(-1))
        out, scales = torch.empty_like(rows), rows.new_empty(rows.size(0), 1)
        size = rows_per_block(rows)
        for part, result, scale in zip(rows.split(size), out.split(size), scales.split(size), strict=True):
            torch.linalg.vector_norm(part, dim=-1, keepdim=True, out=scale)
            scale.square_().div_(rows.size(-1)).add_(eps).rsqrt_()
            torch.mul(part, scale, out=result)
            result.mul_(weight)
        ctx.save_for_backward(rows, weight, scales)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """With n = x * scale: d_weight = sum(g * n) over rows; dx = scale * (g * weight - n * mean(g * weight * n))."""
        rows, weight, scales = ctx.saved_tensors
        grads, out, weight_grad = grad.reshape(rows.shape), torch.empty_like(rows), torch.zeros_like(weight)
        size = rows_per_block(rows)
        blocks = zip(rows.split(size), grads.split(size), out.split(size), scales.split(size), strict=True)
        for part, g, result, scale in blocks:
            torch.mul(part, scale, out=result)
            product = g * result
            weight_grad.add_(product.sum(0))
            result.mul_(torch.mv(product, weight).div_(-rows.size(-1)).unsqueeze(1))
            torch.mul(g, weight, out=product)
            result.add_(product).mul_(scale)
        return out.view(grad.shape), weight_grad, None


class SwiGLU(torch.autograd.Function):
    """silu(a) * b of float32[..., 2 f] = (a, b); the gradient is written where it belongs, not joined afterwards."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Return float32[..., f]; keeps the input and silu(a)."""
        rows = x.reshape(-1, x.size(-1))
        half = rows.size(-1) // 2
        gates, out = rows.new_empty(rows.size(0), half), rows.new_empty(rows.size(0), half)
        size = rows_per_block(rows)
        for part, gate, result in zip(rows.split(size), gates.split(size), out.split(size), strict=True):
            torch.ops.aten.silu.out(part[:, :half], out=gate)
            torch.mul(gate, part[:, half:], out=result)
        ctx.save_for_backward(rows, gates)
        return out.view(*x.shape[:-1], half)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        """Return float32[..., 2 f]: (g * b * silu'(a), g * silu(a))."""
        rows, gates = ctx.saved_tensors
        half = rows.size(-1) // 2
        grads, out = grad.reshape(gates.shape), torch.empty_like(rows)
        size = rows_per_block(rows)
        blocks = zip(rows.split(size), gates.split(size), grads.split(size), out.split(size), strict=True)
        for part, gate, g, result in blocks:
            torch.mul(g, gate, out=result[:, half:])
            torch.ops.aten.silu_backward.grad_input(g * part[:, half:], part[:, :half], grad_input=result[:, :half])
        return out.view(*grad.shape[:-1], 2 * half)


class Rotate(torch.autograd.Function):
    """Rotary embedding of float32[s, b, heads, d] in halves; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotate the pairs (x[i], x[i + d/2]) by angles whose `cos` and `sin` are float32[s, 1, 1, d/2]."""
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Rotate back."""
        cos, sin = ctx.saved_tensors
        return rotate(grad, cos, sin, -1.0), None, None


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: float) -> torch.Tensor:
    """Rotate float32[s, b, heads, d] forwards (1.0) or backwards (-1.0)."""
    half = x.size(-1) // 2
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(x[..., :half], cos, out=out[..., :half]).addcmul_(x[..., half:], sin, value=-direction)
    torch.mul(x[..., half:], cos, out=out[..., half:]).addcmul_(x[..., :half], sin, value=direction)
    return out


def l2norm(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """Return x / sqrt(sum(x^2) + eps) over the last dimension of float[..., d]; a call, not one of the kernels above."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)
