"""Validation in bfloat16 while training in FP8, for every FP8 recipe.

Megatron's own way, `--te-precision-config-file`, knows no delayed scaling and has to be said again for 8-bit weights.
Its layers ask `config.fp8` at every forward pass whether to enter FP8; so the question is answered with no while the
model is in evaluation mode. Transformer Engine then multiplies in bfloat16: weights kept in 8 bits are widened, and the
scaling history of delayed scaling neither moves nor is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def bf16_in_evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Answer `config.fp8` with None during a forward pass in evaluation mode; in training mode do nothing.

    Args:
        model: the model chunk that Megatron's schedule hands to the forward step, with its wrappers.
    """
    if model.training:
        yield
        return
    configs: list[tuple[Any, Any]] = []
    try:
        for module in model.modules():
            config: Any = getattr(module, "config", None)
            if fp8 := getattr(config, "fp8", None):
                configs.append((config, fp8))
                config.fp8 = None
        yield
    finally:
        for config, fp8 in configs:
            config.fp8 = fp8
