"""Two settings, of the C library and of torch, that make a step on a CPU cheaper and change no result beyond rounding.

`keep_freed_memory`: glibc gives every block above 32 MB, and the end of its heap, back to the system as soon as it is free,
and the next step gets it back a page at a time, each cleared by the kernel: the logits of every step are such a block.

`fuse_adam`: Megatron falls back to torch's AdamW without Transformer Engine and Apex, and does not ask for the fused kernel,
which passes once over weights, gradients and moments instead of six times.
"""

import ctypes
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def keep_freed_memory() -> bool:
    """Let malloc keep blocks of up to 1 GB for the next step; return whether the C library takes the settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def fuse_adam() -> RemovableHandle:
    """Let every Adam and AdamW of this process step by torch's fused kernel, also after a checkpoint was loaded."""
    return register_optimizer_step_pre_hook(use_fused_kernel)


def use_fused_kernel(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Switch the fused kernel on for the groups of Adam and AdamW that hold floats; a hook of torch, run before a step."""
    del args, kwargs
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        for group in optimizer.param_groups:
            group["fused"] = all(parameter.is_floating_point() for parameter in group["params"])
