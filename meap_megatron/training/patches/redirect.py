"""Every place where a name of Megatron or torch is replaced at run time: the one list, and why.

Nothing is written to site-packages and nothing is replaced on import: `install` is called once, by the entry point,
before Megatron is imported. The list has four parts, by topic:

* `on_cpu.CPU`: what Megatron 0.19 hard-codes to CUDA. Only with `device=cpu`; never when a GPU is used.
* `everywhere.ALWAYS`: gaps of the megatron-core wheel and of its options, on every device.
* `everywhere.MODULES`: optional packages that Megatron looks for, on a GPU with Transformer Engine.
* `assignments.ASSIGNMENTS`: names that other modules of ours assign to, each where it is needed.

A test fails when upstream moves a name, and when a module assigns to a name that is not on the list.
"""

import importlib
import sys
from typing import Any

import torch

from meap_megatron.errors import RunError
from meap_megatron.training.cpu import tuning
from meap_megatron.training.patches import torch_adam
from meap_megatron.training.patches.assignments import ASSIGNMENTS
from meap_megatron.training.patches.entries import missing
from meap_megatron.training.patches.everywhere import ALWAYS, MODULES
from meap_megatron.training.patches.on_cpu import CPU

MEGATRON_VERSIONS = ("0.19",)
"""Release series of megatron-core for which the lists were read and tested."""

_installed: list[tuple[Any, str, Any]] = []


def loads(name: str) -> bool:
    """Tell whether a module can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def install(*, device: str, engine: bool = False) -> None:
    """Put the redirects of `device` ("cpu" or "cuda") in place, once per process; `engine`: with Transformer Engine.

    Torch's names are replaced before Megatron is imported, because Megatron's modules import some of them by name.

    Raises:
        RunError: a target is missing, which means that an untested version of torch or Megatron is installed.
    """
    if _installed:
        return
    chosen = ALWAYS + CPU if device == "cpu" else ALWAYS
    if engine:
        sys.modules.update({one.name: one.module for one in MODULES if not loads(one.name)})
    # Torch collects its factories at the first `with torch.device(...)`. It must find the real ones, or such a block has
    # no effect: transformers then loads models whose rotary frequencies are uninitialised memory.
    with torch.device("meta"):
        torch.empty(0)
    for first, redirects in (("torch", chosen), ("megatron", chosen)):
        for redirect in redirects:
            if not redirect.target.startswith(first):
                continue
            try:
                owner, name = redirect.locate()
                original = getattr(owner, name)
            except (AttributeError, ModuleNotFoundError):
                raise RunError(_moved(redirect.target, redirect.why)) from None
            setattr(owner, name, redirect.make(original))
            _installed.append((owner, name, original))
    if absent := missing(one.target for one in ASSIGNMENTS if one.target.startswith("megatron")):
        raise RunError(_moved(absent[0], next(one.why for one in ASSIGNMENTS if one.target == absent[0])))
    torch_adam.fuse()
    if device == "cpu":
        tuning.keep_freed_memory()


def _moved(target: str, why: str) -> str:
    return (
        f"{target} does not exist in the installed version, but must be replaced ({why}); "
        f"tested with megatron-core {', '.join(MEGATRON_VERSIONS)}: pip install 'megatron-core=={MEGATRON_VERSIONS[-1]}.*'"
    )


def installed() -> list[str]:
    """Return the names that are replaced in this process."""
    return [f"{getattr(owner, '__name__', owner)}.{name}" for owner, name, _ in _installed]
