"""Import the named parts one after the other and say what each is: `python -m meap_megatron.doctor.child torch cuda ...`.

Run by `imports.look`, which notices a crash or a hang. Writes JSON lines to the standard output, one before and one after
each part; what the packages themselves print goes to the standard error.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def torch_facts() -> dict[str, Any]:
    """Import torch."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpu_build": torch.backends.cuda.is_built()}


def cuda_facts() -> dict[str, Any]:
    """Ask the driver for its GPUs; memory in bytes."""
    import torch

    if not torch.cuda.is_available():
        return {"gpus": []}
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {"gpus": [{"name": p.name, "memory": p.total_memory, "capability": f"{p.major}.{p.minor}"} for p in found]}


def nccl_facts() -> dict[str, Any]:
    """Ask torch for its NCCL."""
    import torch

    if not torch.distributed.is_nccl_available():
        return {"version": ""}
    return {"version": ".".join(map(str, torch.cuda.nccl.version()))}


def megatron_facts() -> dict[str, Any]:
    """Import Megatron's core the way the trainer does, and look for its trainer."""
    from meap_megatron.launch import megatron_import, runtime
    from meap_megatron.training import platform

    megatron_import.quiet_imports()
    platform.load_engine(optional=True)  # one that cannot be loaded has a finding of its own
    with megatron_import.triton_stub():
        import megatron.core

    trainer = importlib.util.find_spec("megatron.training") is not None
    return {"version": megatron.core.__version__, "trainer": trainer, "triton": runtime.is_importable("triton")}


def apex_facts() -> dict[str, Any]:
    """Import Apex and look for the two extensions of which Megatron makes use."""
    import apex  # noqa: F401

    kernels = ("fused_weight_gradient_mlp_cuda", "amp_C")
    return {"kernels": [name for name in kernels if importlib.util.find_spec(name) is not None]}


def native_facts() -> dict[str, Any]:
    """Import the native module."""
    from meap_megatron import _C

    return {"version": _C.__version__}


def imported(name: str) -> Callable[[], dict[str, Any]]:
    """Return a function that imports a module and tells its version, if it has one."""

    def facts() -> dict[str, Any]:
        return {"version": str(getattr(importlib.import_module(name), "__version__", ""))}

    return facts


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "native": native_facts,
    "gigatoken": imported("gigatoken.gigatoken_rs"),
    "torch": torch_facts,
    "cuda": cuda_facts,
    "nccl": nccl_facts,
    "transformer_engine": imported("transformer_engine.pytorch"),
    "apex": apex_facts,
    "flash_attn": imported("flash_attn"),
    "dali": imported("nvidia.dali"),
    "lm_eval": imported("lm_eval"),
    "megatron": megatron_facts,
}
"""In the order in which they are imported: a package comes before those that import it."""


def main(names: list[str]) -> None:
    """Report on the named parts; another name is a module to import."""
    with contextlib.suppress(AttributeError):
        os.setpgid(0, 0)  # what the packages start ends with this process
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for name in names:
        print(json.dumps({"part": name}), file=report)
        try:
            answer: dict[str, Any] = {"facts": PARTS.get(name, imported(name))()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"part": name} | answer), file=report, flush=True)
    report.flush()
    os._exit(0)  # a broken library may crash or hang at exit, after all has been said


if __name__ == "__main__":
    main(sys.argv[1:])
