"""The machine and the installed packages that a run starts on, looked at before Megatron is imported."""

import importlib.util
import os
import socket
import sys

from meap_megatron.errors import UserError

ENGINE = "transformer_engine"
"""The package of NVIDIA's Transformer Engine."""


def resolve_device(device: str) -> str:
    """Turn "auto" into "cuda" if a GPU is there, else into "cpu".

    Raises:
        UserError: "cuda" was asked for and there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={device} is not one of auto, cpu, cuda")
    if device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise UserError("device=cuda, but torch sees no GPU on this machine", fix="use device=auto or device=cpu")
    return "cpu"


def is_importable(name: str) -> bool:
    """Tell whether a top-level package is installed, without importing it."""
    if name in sys.modules:
        return sys.modules[name] is not None
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def cpus_available() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_thread_policy() -> None:
    """Let idle OpenMP threads sleep instead of spin; only has an effect before torch is imported.

    With spinning threads, two threads on two cores that something else uses too were 75 times slower per small operation
    (docs/log.md, 2026-11-22).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def free_port() -> int:
    """Return a TCP port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
