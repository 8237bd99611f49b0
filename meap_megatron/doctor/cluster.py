"""SLURM, and the programs that start a container."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from meap_megatron.doctor import image
from meap_megatron.doctor.finding import BROKEN, DIFFERS, MISSING, OPTIONAL, Finding
from meap_megatron.doctor.programs import first_line, output

RUNTIMES = ("docker", "podman", "enroot", "apptainer", "singularity")
DOCKER_SOCKET = Path("/var/run/docker.sock")


def findings(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Return the findings on SLURM and on containers."""
    return [slurm_finding(environment), container_finding(environment), *image_findings(environment)]


def slurm_finding(environment: Mapping[str, str]) -> Finding:
    """Return the version of SLURM, whether its controller answers, and the job of this process."""
    job = environment.get("SLURM_JOB_ID")
    tasks = environment.get("SLURM_NTASKS", "1")
    inside = f"job {job}, task {environment.get('SLURM_PROCID', '0')} of {tasks}" if job else ""
    if shutil.which("srun") is None:
        return Finding(
            name="SLURM",
            group=OPTIONAL,
            state="ok" if job else MISSING,
            detail=f"{inside}; no srun here, as in every container" if job else "",
            cost="" if job else "no batch jobs from this machine",
            fix=""
            if job
            else "log in to a machine of the cluster, or `apt-get install slurm-client` and its slurm.conf",
        )
    number = (first_line(["srun", "--version"]) or "").removeprefix("slurm").strip()
    ping = output(["scontrol", "ping"])
    if ping is None or " UP" not in ping:
        return Finding(
            name="SLURM",
            group=OPTIONAL,
            state=BROKEN,
            version=number,
            detail="; ".join(filter(None, [inside, "its controller does not answer"])),
            cost="no batch jobs from this machine",
            fix="scontrol ping",
        )
    return Finding(name="SLURM", group=OPTIONAL, version=number, detail=inside)


def container_finding(environment: Mapping[str, str]) -> Finding:
    """Return which container runtimes are there, and whether this process is in a container itself."""
    there = [text for name in RUNTIMES if (text := runtime(name))]
    # pyxis is a plugin of srun and shows only in its options.
    if shutil.which("srun") and "--container-image" in (output(["srun", "--help"]) or ""):
        there.append("pyxis")
    inside = inside_container(environment)
    if there or inside:
        where = f"in {inside} now" if inside else ""
        return Finding(name="containers", group=OPTIONAL, detail="; ".join(filter(None, [", ".join(there), where])))
    return Finding(
        name="containers",
        group=OPTIONAL,
        state=MISSING,
        cost="the image of docs/container.md cannot be built or run here",
        fix="apt-get install docker.io    (on a cluster: enroot with pyxis, or apptainer)",
    )


def image_findings(environment: Mapping[str, str]) -> list[Finding]:
    """Return, inside the image of our Dockerfile, whether what it was built with is still there; else nothing."""
    if not (file := environment.get(image.VARIABLE)):
        return []
    try:
        changed = image.changes(image.pins(Path(file).read_text(encoding="utf-8").splitlines()), image.installed())
    except OSError as error:
        changed = [f"{file}: {error.strerror}"]
    return [
        Finding(
            name="image",
            group=OPTIONAL,
            state=DIFFERS if changed else "ok",
            detail="; ".join(changed) or "the NVIDIA packages are as they came",
            cost="CUDA extensions built for the other version may fail with undefined symbols" if changed else "",
            fix="start a new container; never upgrade torch in it" if changed else "",
        )
    ]


def runtime(name: str) -> str:
    """Return a runtime's name and version, and for docker whether its engine can be reached; "" if it is not there."""
    if shutil.which(name) is None:
        return ""
    line = first_line([name, "version" if name == "enroot" else "--version"])
    if line is None:
        return f"{name} (does not start)"
    number = next((word.rstrip(",") for word in line.split() if word[:1].isdigit()), "")
    reached = name != "docker" or "DOCKER_HOST" in os.environ or os.access(DOCKER_SOCKET, os.W_OK)
    return f"{name} {number}".strip() + ("" if reached else " (no engine within reach)")


def inside_container(environment: Mapping[str, str], root: Path = Path("/")) -> str:
    """Return what kind of container this process is in, or ""."""
    if tag := environment.get("NVIDIA_PYTORCH_VERSION"):
        return f"NVIDIA's PyTorch image {tag}"
    if (root / ".dockerenv").exists():
        return "docker"
    if "APPTAINER_CONTAINER" in environment or "SINGULARITY_CONTAINER" in environment:
        return "apptainer"
    return "podman" if (root / "run/.containerenv").exists() else ""
