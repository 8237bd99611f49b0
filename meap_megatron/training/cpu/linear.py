"""Linear layers on a CPU: oneDNN's matrix products, and weight gradients added where Megatron collects them.

torch multiplies float32 matrices by MKL; oneDNN, which torch brings too, makes the output and the gradient of the input 5 to
15 % faster on an AMD processor with AVX-512 (docs/benchmarks/step.md). The gradient of the weight stays MKL's, which is the
faster one for its shapes, and is added to `main_grad` by the product itself: on GPUs a kernel of Apex does the same
(`gradient_accumulation_fusion`), and without it every gradient is written, read and added once more.

Shapes: ... rows (sequence, batch), i inputs, o outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return float32[..., o] = x[..., i] @ weight[o, i]^T."""
    if not HAS_ONEDNN:
        return torch.matmul(x, weight.t())
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


class Linear(torch.autograd.Function):
    """x @ weight^T, whose backward pass adds the weight's gradient to `weight.main_grad` if Megatron keeps one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, group: Any) -> torch.Tensor:
        """Return float32[..., o].

        Args:
            x: float32[..., i].
            weight: float32[o, i].
            group: over which the gradient of x is summed (tensor parallel); None: nowhere.
        """
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return product(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradient of x; that of the weight is returned too, or is empty memory if it was added already."""
        x, weight = ctx.saved_tensors
        x_grad = product(grad, weight.t())
        summing = None if ctx.group is None else dist.all_reduce(x_grad, group=ctx.group, async_op=True)
        outputs, inputs = grad.reshape(-1, grad.size(-1)).t(), x.reshape(-1, x.size(-1))
        if collects(weight):
            weight.main_grad.addmm_(outputs, inputs)
            # Megatron's hook then drops what is returned here; it must be there and have the weight's shape.
            weight.grad_added_to_main_grad = True
            weight_grad = torch.empty_like(weight)
        else:
            weight_grad = outputs.mm(inputs)
        if summing is not None:
            summing.wait()
        return x_grad, weight_grad, None


def collects(weight: Any) -> bool:
    """Tell whether a gradient may be added to `weight.main_grad` at once: not if the embedding is the output layer too."""
    main = getattr(weight, "main_grad", None)
    return (
        main is not None
        and main.dtype == torch.float32
        and main.shape == weight.shape
        and hasattr(weight, "grad_added_to_main_grad")
        and not getattr(weight, "zero_out_wgrad", False)
    )


def linear_on_cpu(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wrap Megatron's `linear_with_grad_accumulation_and_async_allreduce`: float32 without sequence parallel is ours."""

    def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *args: Any, **kwargs: Any) -> Any:
        plain = (
            not args
            and bias is None
            and input.dtype == weight.dtype == torch.float32
            and not kwargs["sequence_parallel"]
            and not kwargs["gradient_accumulation_fusion"]
            and kwargs.get("grad_output_buffer") is None
            and kwargs.get("gtp_remat_size", 1) == 1
            and (kwargs.get("tp_group") is not None or not kwargs["allreduce_dgrad"])
        )
        if not plain:
            return original(input, weight, bias, *args, **kwargs)
        return Linear.apply(input, weight, kwargs["tp_group"] if kwargs["allreduce_dgrad"] else None)

    linear.warned = False  # type: ignore[attr-defined]  # Megatron's function has this mark
    return linear
