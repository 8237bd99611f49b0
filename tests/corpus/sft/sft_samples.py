"""Small inputs that several tests of conversations share."""

from pathlib import Path
from typing import Any

from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.sft.settings import SftConfig
from meap_megatron.indexed.pair import open_pair
from tests.support.conversations import write_rows

# Every word one id; the system prompts that the tests use are single words.
WORDS = """<unk> <s> </s> <|start_header_id|> <|end_header_id|> <|eot_id|> <|im_start|> <|im_end|> system user assistant
be q r a b c USER: ASSISTANT: [INST] [/INST] ### Instruction: Response: Input:""".split()
# llama3, system prompt "be", question "q", up to the answer.
SOURCE = "<s> <|start_header_id|> system <|end_header_id|> be <|eot_id|> <|start_header_id|> user <|end_header_id|> q "
SOURCE += "<|eot_id|> <|start_header_id|> assistant <|end_header_id|>"
LATER = "<|eot_id|> <|start_header_id|> user <|end_header_id|> r <|eot_id|> "
LATER += "<|start_header_id|> assistant <|end_header_id|>"


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


def make(folder: Path, tokenizer: Path, data: list[Any], **options: Any) -> list[tuple[str, str]]:
    """Preprocess and give each row as words and as digits."""
    source = write_rows(folder / "in.jsonl", data)
    preprocess_sft(config(source, folder / "out", tokenizer, **{"system": "be", "workers": 1, **options}))
    found = rows(folder / "out")
    return [(" ".join(WORDS[i] for i in ids), "".join(map(str, roles))) for ids, roles in found]
