"""Small inputs that several corpus tests share."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from meap_megatron.corpus.settings import PreprocessConfig
from tests.support.kills import finishes_before_step


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


def check_kills(
    root: Path, make: Callable[..., Any], *, stride: int = 1, killed: Callable[[Path], None] = lambda folder: None
) -> None:
    """Kill a run before its changes of files, one in `stride` of them, and see that it is resumed to the same bytes.

    Args:
        make: makes the dataset `out` of a folder; takes `resume`.
        killed: is called with the folder of each killed run.
    """
    make(root / "reference")
    expected, finished_names = content(root / "reference"), names(root / "reference")
    for step in range(0, 1000, stride):
        folder = root / f"kill{step}"
        folder.mkdir()
        finished = finishes_before_step(partial(make, folder), folder, step)
        if not finished:
            killed(folder)
        make(folder, resume=True)
        assert content(folder) == expected, f"killed before file operation {step}"
        assert names(folder) == finished_names
        shutil.rmtree(folder)
        if finished:
            break
    assert step > 20, "the hook saw too few operations to mean anything"
