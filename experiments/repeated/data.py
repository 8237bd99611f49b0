"""The data of the experiment: the beginnings of modules of the Python standard library, a tokenizer, two indexed sets."""

import hashlib
import json
from pathlib import Path

from experiments.runs import meap
from meap_megatron.atomic import replace_text
from meap_megatron.demo.corpus import documents, standard_library
from meap_megatron.errors import RunError
from meap_megatron.tokenizer.train import train_tokenizer

LIBRARY_BYTES = 10_000_000
HELD_OUT = 10  # every tenth module is for validation only
SETS = ("train", "valid")


def prepare(folder: Path, *, train_bytes: int, valid_bytes: int, module_bytes: int, vocab_size: int) -> dict[str, int]:
    """Make tokenizer and indexed sets unless they are there; return what tells them from others.

    Args:
        folder: gets `tokenizer`, `train` and `valid` (prefixes), `data.json`.
        train_bytes: of text that is trained on, about.
        valid_bytes: of text that is validated on, about.
        module_bytes: taken from the beginning of a module at most, so that many modules take part.
        vocab_size: of the tokenizer, which is trained on the training text.

    Raises:
        RunError: preprocessing failed.
    """
    known = folder / "data.json"
    if known.is_file():
        return json.loads(known.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    modules = [beginning(text, module_bytes) for _, text in documents(standard_library(), byte_limit=LIBRARY_BYTES)]
    held_out = modules[::HELD_OUT]
    texts = {
        "train": take([text for index, text in enumerate(modules) if index % HELD_OUT], train_bytes),
        "valid": take(held_out, valid_bytes),
    }
    train_tokenizer(texts["train"], folder / "tokenizer", vocab_size=vocab_size)
    found: dict[str, int] = {}
    for name in SETS:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[name])
        replace_text(folder / f"{name}.jsonl", lines)
        found |= {f"{name}_sha256": hashlib.sha256(lines.encode()).hexdigest()}
        found |= {f"{name}_documents": len(texts[name]), f"{name}_bytes": sum(len(t.encode()) for t in texts[name])}
        found |= {f"{name}_tokens": index(folder, name)}
    replace_text(known, json.dumps(found, indent=1) + "\n")
    return found


def beginning(text: str, most: int) -> str:
    """Return the whole lines at the beginning of a text that have `most` bytes at most together."""
    cut = text.encode()[:most].decode(errors="ignore")
    return text if cut == text else cut[: cut.rfind("\n") + 1]


def take(texts: list[str], size: int) -> list[str]:
    """Return the first texts that have at least `size` bytes together.

    Raises:
        RunError: there is not that much.
    """
    chosen, found = [], 0
    for text in texts:
        if found >= size:
            break
        chosen.append(text)
        found += len(text.encode())
    if found < size:
        raise RunError(f"the standard library of this interpreter has {found:,} bytes for this, {size:,} are needed")
    return chosen


def index(folder: Path, name: str) -> int:
    """Index one set as a user would; return its tokens."""
    from meap_megatron.indexed.sidecar import read_sidecar

    words: list[str | Path] = ["preprocess", "text", folder / f"{name}.jsonl", "--tokenizer", folder / "tokenizer"]
    words += ["--output", folder / name, "--workers", "1", "--overwrite"]
    meap(*words)
    return read_sidecar(folder / name).num_tokens
