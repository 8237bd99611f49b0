"""Small inputs that several corpus tests share."""

import json
from pathlib import Path
from typing import Any

from meap_megatron.corpus.settings import PreprocessConfig


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def sample_texts(count: int) -> list[str]:
    """Documents of different lengths with words, digits, code and non-ASCII characters."""
    return [f"document {i}: " + f"x = {i} * 'é漢' # {'word ' * (i % 23)}\n" * (1 + i % 7) for i in range(count)]


def config(inputs: Path | list[Path], output: Path, tokenizer: Path, **options: Any) -> PreprocessConfig:
    """A configuration with paths instead of strings."""
    paths = inputs if isinstance(inputs, list) else [inputs]
    return PreprocessConfig(inputs=list(map(str, paths)), output=str(output), tokenizer=str(tokenizer), **options)


def documents(prefix: Path) -> list[list[int]]:
    """The ids of every document."""
    from meap_megatron.indexed.pair import open_pair

    pair = open_pair(prefix)
    return [pair[index].tolist() for index in range(len(pair))]


def names(folder: Path) -> list[str]:
    """What a folder contains, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of the dataset `out`."""
    files = [path for path in folder.rglob("*") if path.is_file() and str(path.relative_to(folder)).startswith("out.")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}
