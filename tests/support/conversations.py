"""Conversations of realistic length and a tokenizer with chat tokens, made from what every Python installation has."""

import ast
import json
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.corpus import byte_level, library_texts, opening, save

CHAT_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
)
"""Ids 0, 1, ... of `write_chat_tokenizer`; BOS is 0 and EOS is 1."""


@cache
def docstring_rows(limit: int = 52_000) -> tuple[dict[str, str], ...]:
    """Return Alpaca-like rows from the docstrings of the standard library, at most `limit`, always the same.

    "Explain NAME" asks for a docstring; every third row has the signature as its input. As in Alpaca, most answers are
    short (a median of 14 words) and a few are very long.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    rows: list[dict[str, str]] = []
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and (
                answer := ast.get_docstring(node)
            ):
                given = ast.unparse(node).split("\n")[0] if len(rows) % 3 == 0 else ""
                name = f"{path.stem}.{node.name}"
                rows.append({"instruction": f"Explain {name}.", "input": given, "output": answer})
                if len(rows) == limit:
                    return tuple(rows)
    return tuple(rows)


def write_alpaca(path: Path, rows: tuple[dict[str, str], ...]) -> Path:
    """Write rows as Alpaca does: one JSON array, indented."""
    path.write_text(json.dumps(list(rows), indent=4, ensure_ascii=False), encoding="utf-8")
    return path


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write one JSON line per row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_chat_dataset(root: Path, rows: tuple[dict[str, str], ...], *, max_length: int, name: str = "data") -> Path:
    """Write rows, a chat tokenizer unless there is one, and their dataset by Llama-3's template; return its prefix."""
    from meap_megatron.cli.main import main

    folder = root / "tokenizer"
    if not folder.exists():
        write_chat_tokenizer(folder)
    source = write_alpaca(root / f"{name}.json", rows)
    words = ["--tokenizer", str(folder), "--output", str(root / name), "--workers", "1"]
    words += ["--template", "llama3", "--max-length", str(max_length)]
    assert main(["preprocess", "sft", str(source), *words]) == 0
    return root / name


def write_chat_tokenizer(folder: Path, *, vocab_size: int = 1024, chat_template: str | None = None) -> Path:
    """Train a byte-level BPE with the tokens of Llama-3 and ChatML and save it as a Hugging Face folder.

    As Llama-3's, it puts BOS before a text.

    Args:
        folder: where to write it.
        vocab_size: ids before [MASK] is added.
        chat_template: source of a chat template, or None.
    """
    tokenizer = byte_level(library_texts(300_000), vocab_size=vocab_size, special=CHAT_TOKENS)
    config = {"bos_token": CHAT_TOKENS[0], "eos_token": CHAT_TOKENS[1]}
    if chat_template is not None:
        config["chat_template"] = chat_template
    return save(opening(tokenizer, CHAT_TOKENS[0]), folder, **config)
