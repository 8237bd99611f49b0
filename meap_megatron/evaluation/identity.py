"""What a result belongs to: the exact weights, tokenizer, libraries and commit."""

import hashlib
import platform
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError, refuse_pointer
from meap_megatron.version import __version__, installed

WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
CONFIGS = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "*.model",
    "vocab.*",
    "merges.txt",
)
LIBRARIES = ("torch", "transformers", "tokenizers", "lm_eval", "datasets", "numpy", "scipy", "rouge_score")


def check_model(folder: Path) -> None:
    """Refuse a folder that is not a Hugging Face model.

    Raises:
        UserError: it does not exist, or config.json, weights or tokenizer are missing.
    """
    if not folder.is_dir():
        raise UserError(
            f"model {folder} is not a folder", fix="give a Hugging Face model folder (nothing is downloaded)"
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model {folder} has no config.json, so it is not a Hugging Face folder",
            fix=f"of a run or an import, `meap convert export {folder} OUT` makes one",
        )
    if not any(file for pattern in WEIGHTS[:2] for file in folder.glob(pattern)):
        raise UserError(f"model {folder} has no weights (*.safetensors or *.bin)", fix="copy them or export again")
    if not any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        raise UserError(
            f"model {folder} has no tokenizer", fix="put tokenizer.json and tokenizer_config.json beside the weights"
        )
    for path in folder.iterdir():
        refuse_pointer(path)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Return file name -> SHA-256 of the files of a folder that match, in the order of their names."""
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {path.name: hash_file(path) for path in found}


def fingerprint(hashes: dict[str, str]) -> str:
    """Return one hash of the names and hashes of files."""
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(hashes.items())).encode()).hexdigest()


def model_identity(folder: Path) -> dict[str, Any]:
    """Return name and fingerprint of a model: its weights and configuration, every byte."""
    hashes = hash_files(folder, (*CONFIGS, *WEIGHTS))
    return {"path": str(folder), "fingerprint": fingerprint(hashes), "files": hashes}


def described(model: Any, device: str) -> dict[str, Any]:
    """Return size, precision and architecture of a loaded model, and where it is."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "architecture": type(model).__name__,
        "device": device,
    }


def tokenizer_identity(folder: Path) -> dict[str, Any]:
    """Return the fingerprints of a tokenizer.

    `fingerprint` is of its files; `corpus_fingerprint` is the one that the sidecars of training data hold, or None for
    a tokenizer that could not have made such data.
    """
    from meap_megatron.tokenizer.load import load_tokenizer

    try:
        of_corpus = load_tokenizer(folder).info.fingerprint
    except UserError:
        of_corpus = None
    return {"fingerprint": fingerprint(hash_files(folder, TOKENIZER_FILES)), "corpus_fingerprint": of_corpus}


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries that decide a score."""
    return {"python": platform.python_version(), "meap_megatron": __version__} | installed(LIBRARIES)
