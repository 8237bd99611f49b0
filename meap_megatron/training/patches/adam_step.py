"""Adam's step counter between torch's AdamW (per parameter) and the fused Adam of Transformer Engine or Apex (per group).

Megatron 0.19.2 saves the counter where the optimizer of the run kept it and puts it back there, so that a run begun on a CPU
could not continue on a GPU with Transformer Engine, nor come back: the counter is unknown to the one, and missing for the
other. So are the options in which their groups differ.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch


def keeps_step_in_groups(inner: Any) -> bool:
    """Tell whether an optimizer is the fused Adam of Transformer Engine or Apex."""
    return type(inner).__name__ == "FusedAdam"


def move_step(state: dict[str, Any], inner: Any) -> None:
    """Put the counter of a loaded state to where `inner` looks for it.

    Args:
        state: "state" (parameter -> moments, and "common_step" if Megatron took the counter out of all of them) and
            "param_groups", as the load of `FP32Optimizer` and `Float16OptimizerWithFloat16Params` gets them.
        inner: the optimizer of torch, Transformer Engine or Apex.
    """
    moments, groups = state["state"], state["param_groups"]
    if keeps_step_in_groups(inner):
        steps = [moments.pop("common_step", None), *(own.pop("step", None) for own in moments.values())]
        step = next((step for step in steps if step is not None), None)
        if step is not None:
            for group in groups:
                group["step"] = int(step)
    elif isinstance(inner, torch.optim.Adam | torch.optim.AdamW):
        steps = [group.pop("step", None) for group in groups]
        step = next((step for step in steps if step is not None), None)
        if step is not None:
            moments.setdefault("common_step", torch.tensor(float(step)))


def complete_groups(inner: Any) -> None:
    """Give the groups of a loaded optimizer the options that the one which saved them did not have."""
    for group in inner.param_groups:
        for name, value in inner.defaults.items():
            group.setdefault(name, value)
        if keeps_step_in_groups(inner) and "step" in group:
            group["step"] = int(group["step"])  # its kernel takes no float


def with_step_of_either(load_state_dict: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Wrap `load_state_dict` of `FP32Optimizer` and `Float16OptimizerWithFloat16Params`."""

    @functools.wraps(load_state_dict)
    def load(optimizer: Any, state: Any) -> None:
        if optimizer.optimizer is not None:
            move_step(state.get("optimizer", state), optimizer.optimizer)
        load_state_dict(optimizer, state)
        if optimizer.optimizer is not None:
            complete_groups(optimizer.optimizer)

    return load


def with_groups_of_either(load_state_dict: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Wrap `DistributedOptimizer.load_state_dict`, which puts the counter into the groups itself, as a float.

    In its default format it also copies into views of float32 weights, which autograd refuses.
    """

    @functools.wraps(load_state_dict)
    def load(optimizer: Any, state: Any) -> None:
        with torch.no_grad():
            load_state_dict(optimizer, state)
        if optimizer.optimizer is not None:
            complete_groups(optimizer.optimizer)

    return load
