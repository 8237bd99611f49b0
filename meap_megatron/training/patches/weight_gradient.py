"""Weight gradients that are added to the gradient buffer inside the matrix product, without Apex.

This module takes the place of Apex's `fused_weight_gradient_mlp_cuda`, which Megatron's own linear layers (the head, with
Transformer Engine too) need for `gradient_accumulation_fusion`. Without the fusion every micro-batch writes a gradient in
bfloat16 and adds it in a second pass: 12 bytes more per parameter, and digits lost. The product is Transformer Engine's,
called as its own linear layers call it; float32 stays with torch, because Transformer Engine's is TF32.
"""

import importlib

import torch

NAME = "fused_weight_gradient_mlp_cuda"
"""Of Apex's module."""


def wgrad_gemm_accum_fp32(inputs: torch.Tensor, gradient: torch.Tensor, main_grad: torch.Tensor) -> None:
    """Add a layer's weight gradient to its place in the gradient buffer.

    Args:
        inputs: of the layer, [tokens, in].
        gradient: of its output, [tokens, out], of the same type.
        main_grad: [out, in], contiguous, float32 or of the type of `inputs`; becomes main_grad + gradient^T inputs.
    """
    if inputs.dtype == main_grad.dtype == torch.float32:
        main_grad.addmm_(gradient.t(), inputs)
        return
    engine = importlib.import_module("megatron.core.extensions.transformer_engine")
    # Older versions of Transformer Engine ask for a workspace.
    workspace = {} if engine._get_workspace is None else {"workspace": engine._get_workspace()}
    engine.general_gemm(
        inputs,
        gradient,
        out_dtype=main_grad.dtype,
        layout="NT",
        out=main_grad,
        accumulate=True,
        grad=True,
        **workspace,
    )


wgrad_gemm_accum_fp16 = wgrad_gemm_accum_fp32
"""For a gradient buffer in 16 bits."""
