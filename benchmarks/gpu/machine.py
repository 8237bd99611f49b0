"""Check a: what the machine is, which formats it has, and the ceilings that other figures are read against."""

import os
import platform
import shutil
import subprocess
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu import process
from benchmarks.gpu.session import Session, read_json, tail, write_json
from meap_megatron.version import installed

PACKAGES = "torch megatron-core transformer-engine transformers triton numpy meap-megatron".split()
NOT_INSTALLED, BROKEN = "not installed", "does not"
"""How the remark on a Transformer Engine begins that is absent, and that is there but cannot be used."""
LEAST_BF16 = 600.0
"""TFLOP/s of an 8,192^3 product on an H100; below, the card is throttled or shared, and no other figure means anything."""


def run(session: Session) -> None:
    """Look, in a process of its own: this one must not touch CUDA."""
    report = session.work / "machine.json"
    log = session.work / "machine.log"
    arguments = (str(report), session.device, session.quick)
    started = process.start(look, *arguments, device=session.device, log=log)
    status = process.wait(started, 60)
    if status != 0 and session.on_gpu:
        # Importing something has started CUDA in the process that forks: from here on every run imports for itself.
        session.detail("fresh", True)
        session.detail("why a fork cannot use CUDA", tail(log))
        log.unlink(missing_ok=True)
        started = process.start(look, *arguments, device=session.device, log=log, fresh=True)
        status = process.wait(started, 90)
    found = read_json(report)
    if status != 0 or found is None:
        raise RuntimeError(f"the machine could not be measured (status {status})\n{tail(log)}")
    session.detail("machine", found)
    for name, value in found.items():
        if name != "rates":
            session.add(name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value)
    for name, (value, unit) in found["rates"].items():
        bounds = {"at_least": LEAST_BF16} if name == "bf16 product 8192" and session.is_h100 else {}
        session.add(name, value, unit, **bounds)


def look(report: str, device: str, quick: bool) -> None:
    """Write what is found as JSON."""
    import torch

    found: dict[str, Any] = {
        "python": platform.python_version(),
        **dict.fromkeys(PACKAGES, "none"),
        **installed(PACKAGES),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
            "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "driver": driver(),
            "cuda": torch.version.cuda,
            "cudnn": str(torch.backends.cudnn.version()),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "compiler": compiler(),
        }
    found |= engine(device)
    found["rates"] = rates(device, quick=quick)
    write_json(Path(report), found)


def driver() -> str:
    """Return the driver's version."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def engine(device: str) -> dict[str, Any]:
    """Return whether Transformer Engine loads, and the `precision` names of the FP8 recipes that this card has."""
    if device == "cpu":
        return {"engine": "not used on a CPU", "fp8_recipes": []}
    if reason := os.environ.get(process.NO_ENGINE):
        return {"engine": reason, "fp8_recipes": []}
    if find_spec("transformer_engine") is None:
        return {"engine": NOT_INSTALLED, "fp8_recipes": []}
    from meap_megatron.errors import UserError
    from meap_megatron.training.platform import load_engine

    try:
        load_engine(optional=False)
    except UserError as error:  # any failure of its libraries
        return {"engine": f"{BROKEN} load: {error.__cause__ or error}", "fp8_recipes": []}
    import transformer_engine.pytorch as te

    try:
        run_kernels(te)
    except Exception as error:  # of its kernels: "no kernel image is available", say
        return {"engine": f"{BROKEN} run: {type(error).__name__}: {error}", "fp8_recipes": []}
    asked = (
        ("fp8-delayed", "is_fp8_available"),
        ("fp8-tensorwise", "is_fp8_available"),
        ("fp8-blockwise", "is_fp8_block_scaling_available"),
        ("mxfp8", "is_mxfp8_available"),
    )
    available = [name for name, question in asked if getattr(te, question, bool)()]
    return {"engine": "loads", "fp8_recipes": available}


def run_kernels(te: Any) -> None:
    """Run a norm and a matrix product of Transformer Engine forwards and backwards."""
    import torch

    layer = te.LayerNormLinear(64, 64, normalization="RMSNorm", params_dtype=torch.bfloat16, device="cuda")
    layer(torch.ones(16, 64, device="cuda", dtype=torch.bfloat16)).sum().backward()
    torch.cuda.synchronize()


def compiler() -> str:
    """Return the C compiler that Triton takes for what starts its kernels, "none" if it or Python's headers are missing."""
    name = next(filter(shutil.which, (os.environ.get("CC") or "gcc", "clang")), None)
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return Path(name).name if name and headers.is_file() else "none"


def rates(device: str, *, quick: bool) -> dict[str, tuple[float, str]]:
    """Return rates of matrix products, of copies in memory and to the device, and of starting kernels."""
    import torch

    size = 8192 if device == "cuda" else 256 if quick else 1024
    found: dict[str, tuple[float, str]] = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = best_seconds(lambda a=a, b=b: a @ b, device)
        found[f"{name} product {size}"] = (2 * size**3 / seconds / 1e12, "TFLOP/s")
    bytes_ = 2**31 if device == "cuda" else 2**24
    source = torch.zeros(bytes_, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy in memory"] = (2 * bytes_ / best_seconds(lambda: target.copy_(source), device) / 1e12, "TB/s")
    if device == "cuda":
        pinned = torch.zeros(2**28, dtype=torch.uint8, pin_memory=True)
        there = torch.empty(2**28, dtype=torch.uint8, device="cuda")
        seconds = best_seconds(lambda: there.copy_(pinned, non_blocking=True), device)
        found["copy to the device"] = (2**28 / seconds / 1e9, "GB/s")
        one = torch.zeros(1, device="cuda")
        began = time.perf_counter()
        for _ in range(10_000):
            one.add_(1)
        found["starting a kernel"] = ((time.perf_counter() - began) / 10_000 * 1e6, "us")
    return found


def best_seconds(call: Any, device: str, repeats: int = 5) -> float:
    """Return the shortest time of a call after two that warm up."""
    import torch

    best = float("inf")
    for number in range(repeats + 2):
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 2:
            best = min(best, time.perf_counter() - began)
    return best
