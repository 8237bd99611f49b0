"""What an export of a fine-tuned model says about its conversations is what its data hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.checkpoint.convert.chat_files import chat_format_of, generation_ends, write_chat_format
from meap_megatron.cli.main import main
from meap_megatron.corpus.sft.templates import TEMPLATES
from meap_megatron.indexed.pair import open_pair
from meap_megatron.indexed.roles import END
from meap_megatron.indexed.sidecar import Sidecar, read_sidecar
from tests.support.conversations import write_chat_tokenizer, write_rows

SYSTEM = [{"role": "system", "content": "Be brief {or not}."}]
QUESTION = [{"role": "user", "content": 'What is an "iterator"\\n{{ x }}?'}]
ANSWER = [{"role": "assistant", "content": "Something that gives one item after the other."}]
MORE = [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": "It ends."}]
IN_TURN = [QUESTION + ANSWER, SYSTEM + QUESTION + ANSWER, QUESTION + ANSWER + MORE]
DEVELOPER = [{"role": "developer", "content": "Be brief."}]
ANY_ORDER = [
    ANSWER + QUESTION + ANSWER,
    QUESTION + QUESTION + ANSWER,
    DEVELOPER + QUESTION + ANSWER + ANSWER + QUESTION,
]


def conversations(template: str) -> list[list[dict[str, str]]]:
    any_order = template in TEMPLATES and TEMPLATES[template].opens
    return [*IN_TURN, DEVELOPER + QUESTION + ANSWER, *(ANY_ORDER if any_order else [])]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def preprocess(root: Path, tokenizer: Path, template: str, *options: str) -> tuple[str, Sidecar]:
    write_rows(root / "x.jsonl", [{"messages": messages} for messages in conversations(template)])
    words = ["--tokenizer", str(tokenizer), "--template", template, "--output", str(root / "data"), *options]
    assert main(["preprocess", "sft", str(root / "x.jsonl"), *words]) == 0
    return str(root / "data"), read_sidecar(root / "data")


def exported(root: Path, prefix: str, sidecar: Sidecar) -> tuple[Any, Any]:
    """Write the tokenizer as an export does, and return it as transformers loads it, with what was found out."""
    import shutil

    from transformers import AutoTokenizer

    folder = Path(f"{prefix}.tokenizer")
    chat = chat_format_of(sidecar, prefix, folder)
    shutil.copytree(folder, root / "out")
    write_chat_format(root / "out", chat)
    return AutoTokenizer.from_pretrained(root / "out"), chat


@pytest.mark.parametrize("options", [[], ["--add-bos"], ["--system", "Answer in rhymes."], ["--system", ""]])
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_chat_template_opens_an_answer_with_the_ids_of_the_data(
    tokenizer: Path, tmp_path: Path, template: str, options: list[str]
) -> None:
    prefix, sidecar = preprocess(tmp_path, tokenizer, template, *options)
    loaded, chat = exported(tmp_path, prefix, sidecar)
    ids, roles = open_pair(prefix), open_pair(f"{prefix}.roles")
    for row, messages in enumerate(conversations(template)):
        start = int(roles[row].nonzero()[0][0])
        asked = messages[: [message["role"] for message in messages].index("assistant")]
        if asked:
            prompt = loaded.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
            assert prompt == ids[row][:start].tolist(), (template, row)
        whole = loaded.apply_chat_template(messages, tokenize=False)
        assert whole == loaded.decode(ids[row], skip_special_tokens=False)
    end = int(ids[0][roles[0] == END][0])
    assert chat.ends[0] == end == loaded.eos_token_id


def test_the_tokenizers_own_template_is_kept_and_its_end_becomes_eos(tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = write_chat_tokenizer(tmp_path / "tokenizer", chat_template=source)
    prefix, sidecar = preprocess(tmp_path, tokenizer, "tokenizer")
    loaded, chat = exported(tmp_path, prefix, sidecar)
    assert chat.template is None and loaded.chat_template == source
    assert loaded.eos_token == "<|im_end|>" and loaded.pad_token == "<|end_of_text|>"


def test_without_the_data_files_the_template_tells_the_end(tokenizer: Path, tmp_path: Path) -> None:
    prefix, sidecar = preprocess(tmp_path, tokenizer, "chatml")
    there = chat_format_of(sidecar, prefix, Path(f"{prefix}.tokenizer"))
    for name in ("data.bin", "data.roles.bin"):
        (tmp_path / name).unlink()
    assert chat_format_of(sidecar, prefix, Path(f"{prefix}.tokenizer")) == there


@pytest.mark.parametrize(("before", "after"), [(1, [6, 1]), ([1, 6], [6, 1]), (None, 6), (6, 6)])
def test_generation_stops_where_an_answer_ends_and_where_the_model_stopped_before(before: Any, after: Any) -> None:
    from meap_megatron.checkpoint.convert.chat_files import ChatFormat

    assert generation_ends(ChatFormat(ends=(6,), eos_token="<|im_end|>", template=None), before) == after


def test_other_files_of_a_tokenizer_name_the_same_end(tmp_path: Path) -> None:
    from meap_megatron.checkpoint.convert.chat_files import ChatFormat

    stated = {"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "<pad>", "chat_template": "old"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    write_chat_format(tmp_path, ChatFormat(ends=(6,), eos_token="<|im_end|>", template="new"))
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
    }
    assert json.loads((tmp_path / "special_tokens_map.json").read_text()) == {
        "eos_token": "<|im_end|>",
        "pad_token": "</s>",
    }
