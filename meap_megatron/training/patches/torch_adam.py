"""Megatron's distributed optimizer on torch's own Adam, which it falls back to without Transformer Engine and Apex.

Four faults of Megatron 0.19.2 there, all around checkpoints: it asks an optimizer for the step of a state that is not there
before the first step, nor ever on a rank that owns no shard (AssertionError); it gives one step tensor to all parameters,
and each of them advances it, so that the bias correction of the resumed run is wrong; and it looks for a tensor `step`
among the tensors of a checkpoint, where a fully reshardable one has none (KeyError), and the default format has that of the
optimizer before the load, so that the bias correction of the resumed run is that of a first step. With Transformer Engine or
Apex nothing is changed.

And one of speed: Megatron does not ask torch for the fused kernel, which passes once over weights, gradients and moments
instead of six times.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle


def on_torch_adam(optimizer: Any) -> bool:
    """Tell whether a distributed optimizer of Megatron steps by torch's Adam or AdamW."""
    module = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    return not module.HAVE_APEX_OR_TE and isinstance(optimizer.optimizer, torch.optim.Adam | torch.optim.AdamW)


def with_step(state_dict: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap `DistributedOptimizer.state_dict`: an optimizer without state is at the step of its parameter groups, or 0."""

    @functools.wraps(state_dict)
    def state_dict_of(optimizer: Any) -> Any:
        inner = optimizer.optimizer
        if not on_torch_adam(optimizer) or inner.state:
            return state_dict(optimizer)
        plain = inner.state_dict
        step = next((group["step"] for group in inner.param_groups if group.get("step")), 0)
        # Megatron reads nothing of the state here but the step.
        inner.state_dict = lambda: plain() | {"state": {0: {"step": torch.tensor(float(step))}}}
        try:
            return state_dict(optimizer)
        finally:
            del inner.state_dict

    return state_dict_of


def with_own_steps(load_state_dict: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Wrap `DistributedOptimizer.load_state_dict`: every parameter gets a step tensor of its own."""

    @functools.wraps(load_state_dict)
    def load(optimizer: Any, state: Any) -> None:
        load_state_dict(optimizer, state)
        if on_torch_adam(optimizer):
            for moments in optimizer.optimizer.state.values():
                moments["step"] = moments["step"].clone()

    return load


def without_step(set_states: Callable[[Any, Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    """Wrap `DistributedOptimizer._set_main_param_and_optimizer_states`: `step` comes with the parameter groups, not here."""

    @functools.wraps(set_states)
    def set_without_step(optimizer: Any, model_param: Any, tensors: dict[str, Any]) -> None:
        set_states(optimizer, model_param, tensors | {"step": None} if on_torch_adam(optimizer) else tensors)

    return set_without_step


def fuse() -> RemovableHandle:
    """Let every Adam and AdamW of this process step by torch's fused kernel, also after a checkpoint was loaded."""
    return register_optimizer_step_pre_hook(use_fused_kernel)


def use_fused_kernel(optimizer: Any, *unused: Any) -> None:
    """Switch the fused kernel on for the groups of Adam and AdamW that hold floats; a hook of torch, run before a step.

    The kernel wants each parameter's step beside the parameter; a loaded checkpoint has it on the CPU.
    """
    del unused
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return
    for group in optimizer.param_groups:
        group["fused"] = all(parameter.is_floating_point() for parameter in group["params"])
        for parameter in group["params"] if group["fused"] else []:
            step = optimizer.state.get(parameter, {}).get("step")
            if isinstance(step, torch.Tensor) and step.device != parameter.device:
                optimizer.state[parameter]["step"] = step.to(parameter.device)
