"""Small inputs that several tests of conversations share."""

from pathlib import Path
from typing import Any

from meap_megatron.corpus.sft.settings import SftConfig
from meap_megatron.indexed.pair import open_pair


def config(inputs: Path | list[Path], output: Path, tokenizer: Path, **options: Any) -> SftConfig:
    """A configuration with paths instead of strings."""
    paths = inputs if isinstance(inputs, list) else [inputs]
    return SftConfig(inputs=list(map(str, paths)), output=str(output), tokenizer=str(tokenizer), **options)


def alpaca(instruction: str, output: str, given: str = "") -> dict[str, str]:
    return {"instruction": instruction, "input": given, "output": output}


def sharegpt(*texts: str, **more: Any) -> dict[str, Any]:
    """Human and gpt in turn."""
    names = ("human", "gpt")
    return {"conversations": [{"from": names[i % 2], "value": text} for i, text in enumerate(texts)], **more}


def messages(*texts: str, system: str | None = None) -> dict[str, Any]:
    """User and assistant in turn."""
    names = ("user", "assistant")
    turns = [{"role": names[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": turns if system is None else [{"role": "system", "content": system}, *turns]}


def rows(prefix: Path) -> list[tuple[list[int], list[int]]]:
    """The ids and roles of every row."""
    ids, roles = open_pair(prefix), open_pair(f"{prefix}.roles")
    return [(ids[index].tolist(), roles[index].tolist()) for index in range(len(ids))]
