"""CUDA and NCCL: what the driver shows, and whether torch can use it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meap_megatron.doctor.finding import BROKEN, DIFFERS, FASTER, MISSING, NEEDED, Finding
from meap_megatron.doctor.programs import first_line

WITHOUT_GPU = "training runs on the CPU, for tiny models only"


def devices(root: Path = Path("/dev")) -> int:
    """Return the number of NVIDIA GPUs whose device files this process sees."""
    return sum(path.name.removeprefix("nvidia").isdecimal() for path in root.glob("nvidia[0-9]*"))


def findings(answers: Mapping[str, Mapping[str, Any]] | None, *, seen: int) -> list[Finding]:
    """Return the findings on CUDA and NCCL; with a GPU in the machine they are needed parts.

    Args:
        answers: of `imports.look`; None if nothing was imported.
        seen: number of GPUs of which there are device files.
    """
    group = NEEDED if seen else FASTER
    driver = driver_version() if seen else ""
    return [
        cuda_finding(answers, group=group, seen=seen, driver=driver),
        *nccl_findings(answers, group=group, seen=seen),
    ]


def driver_version() -> str:
    """Return the version of the NVIDIA driver, or ""."""
    if shutil.which("nvidia-smi") is None:
        return ""
    return first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) or ""


def cuda_finding(answers: Mapping[str, Mapping[str, Any]] | None, *, group: str, seen: int, driver: str) -> Finding:
    """Return whether torch reaches the GPUs that are there."""
    driver_text = f"driver {driver}" if driver else ""
    if not seen:
        return Finding(
            name="CUDA",
            group=group,
            state=MISSING,
            detail="no GPU is visible",
            cost=WITHOUT_GPU,
            fix="on a GPU machine: nvidia-smi; in a container: docker run --gpus all; under SLURM: --gpus-per-node=8",
        )
    if answers is None or "cuda" not in answers:
        state = "ok" if answers is None else BROKEN
        detail = f"{seen} GPUs, not asked" if answers is None else "torch is not there to use them"
        return Finding(name="CUDA", group=group, state=state, version=driver_text, detail=detail)
    answer = answers["cuda"]
    gpus = answer.get("facts", {}).get("gpus", [])
    built = answers.get("torch", {}).get("facts", {}).get("cuda")
    if "error" in answer or not gpus:
        why = answer.get("error") or (
            f"{seen} GPUs are there, and torch (built for CUDA {built}) does not reach them"
            if built
            else f"{seen} GPUs are there, and this torch is built for CPUs only"
        )
        return Finding(
            name="CUDA",
            group=group,
            state=BROKEN,
            version=driver_text,
            detail=str(why),
            cost=WITHOUT_GPU,
            fix="python -c 'import torch; torch.cuda.init()'    says why: mostly a driver older than torch's CUDA; "
            "update the driver, or install the torch of the driver's CUDA",
        )
    kinds = sorted({f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB" for gpu in gpus})
    hidden = len(gpus) < seen and "CUDA_VISIBLE_DEVICES" not in os.environ
    return Finding(
        name="CUDA",
        group=group,
        state=DIFFERS if hidden or len(kinds) > 1 else "ok",
        version=f"{built}" + (f", {driver_text}" if driver_text else ""),
        detail=f"{len(gpus)} x {' and '.join(kinds)}" + (f"; {seen} device files" if hidden else ""),
    )


def nccl_findings(answers: Mapping[str, Mapping[str, Any]] | None, *, group: str, seen: int) -> list[Finding]:
    """Return torch's NCCL, which several GPUs cannot do without."""
    if answers is None or "nccl" not in answers:
        return []
    answer = answers["nccl"]
    number = answer.get("facts", {}).get("version", "")
    if number:
        return [Finding(name="NCCL", group=group, version=number)]
    return [
        Finding(
            name="NCCL",
            group=group,
            state=BROKEN if seen else MISSING,
            detail=str(answer.get("error", "torch was built without it")),
            cost="no training on more than one GPU; processes on CPUs use gloo",
            fix="install a torch that is built for CUDA",
        )
    ]
