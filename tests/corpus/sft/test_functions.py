"""Rows with functions: through the tokenizer's template as `apply_chat_template` renders them, or dropped and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.errors import UserError
from tests.corpus.sft.sft_samples import config, rows
from tests.support.conversations import write_rows

TEMPLATE = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<call>' + (call.function | tojson) + '</call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
PLAIN = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
TOOL = {"type": "function", "function": {"name": "tide_table", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "tide_table", "arguments": {"port": "Brest"}}}
ASK = {"role": "user", "content": "Tide in Brest?"}
DIALOGUE = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4.2"},
    {"role": "assistant", "content": "4.2 metres."},
]
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Tide in Brest?"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "4.2"},
        {"from": "gpt", "value": "4.2 metres."},
    ],
    "tools": json.dumps([TOOL["function"]]),
}


def as_data(turn: dict[str, Any]) -> Any:
    """What a turn says, a call not as JSON of it."""
    return json.loads(turn["value"]) if turn["from"] == "function_call" else turn["value"]


@pytest.fixture
def tokenizer(tmp_path: Path, chat_bytes: Path) -> Path:
    import shutil

    return Path(shutil.copytree(chat_bytes, tmp_path / "tokenizer"))


def with_template(tokenizer: Path, template: str) -> Path:
    (tokenizer / "chat_template.jinja").write_text(template)
    return tokenizer


@pytest.mark.parametrize(
    "row",
    [
        {"messages": DIALOGUE, "tools": [TOOL]},
        {"messages": [ASK, {**DIALOGUE[1], "content": None}, *DIALOGUE[2:]], "tools": [TOOL]},
        {"messages": json.dumps(DIALOGUE), "functions": [TOOL["function"]]},
        SHAREGPT,
        {**SHAREGPT, "conversations": [{**one, "value": as_data(one)} for one in SHAREGPT["conversations"]]},
    ],
)
def test_functions_are_what_apply_chat_template_makes_of_them(
    tmp_path: Path, tokenizer: Path, row: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    source = write_rows(tmp_path / "in.jsonl", [row])
    preprocess_sft(config(source, tmp_path / "out", with_template(tokenizer, TEMPLATE), template="tokenizer"))
    original = AutoTokenizer.from_pretrained(tokenizer)
    expected = original.apply_chat_template(DIALOGUE, tools=[TOOL], tokenize=True, return_dict=True)["input_ids"]
    ((ids, roles),) = rows(tmp_path / "out")
    assert ids == expected
    trained = original.decode([one for one, role in zip(ids, roles, strict=True) if role])
    call = '<call>{"name": "tide_table", "arguments": {"port": "Brest"}}</call>'
    assert trained == f"{call}<|im_end|>4.2 metres.<|im_end|>"
    assert "empty answer" not in capsys.readouterr().err


@pytest.mark.parametrize("template", ["tojson", "string"])
@pytest.mark.parametrize(
    "said", [{"m": [4.2, "<|im_start|>"]}, ["a", 1], [{"type": "text", "text": "4"}, 1], [], {}, 4.2, 0, True]
)
def test_what_a_tool_returned_may_be_any_value(tmp_path: Path, tokenizer: Path, said: Any, template: str) -> None:
    from transformers import AutoTokenizer

    source = PLAIN.replace(
        "message.content", f"(message.content if message.role != 'tool' else message.content | {template})"
    )
    dialogue = [ASK, {"role": "assistant", "content": "I look."}, {"role": "tool", "content": said}, DIALOGUE[3]]
    rows_in = write_rows(tmp_path / "in.jsonl", [{"messages": dialogue}])
    preprocess_sft(config(rows_in, tmp_path / "out", with_template(tokenizer, source), template="tokenizer"))
    original = AutoTokenizer.from_pretrained(tokenizer)
    ((ids, _),) = rows(tmp_path / "out")
    assert original.decode(ids) == original.apply_chat_template(dialogue, tokenize=False)


def named_in_configuration(tokenizer: Path) -> None:
    named = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TEMPLATE}]
    path = tokenizer / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": named}))


def named_in_files(tokenizer: Path) -> None:
    named_in_configuration(with_template(tokenizer, "old"))
    for name, template in (("tool_use", TEMPLATE), ("rag", "{{ documents }}")):
        (tokenizer / "additional_chat_templates").mkdir(exist_ok=True)
        (tokenizer / "additional_chat_templates" / f"{name}.jinja").write_text(template)
    with_template(tokenizer, PLAIN)


@pytest.mark.parametrize("write", [named_in_configuration, named_in_files])
def test_a_template_for_tools_is_used_for_rows_with_tools_and_saved(
    tmp_path: Path, tokenizer: Path, write: Callable[[Path], None]
) -> None:
    from transformers import AutoTokenizer

    write(tokenizer)
    data = [{"messages": DIALOGUE, "tools": [TOOL]}, {"messages": [ASK, DIALOGUE[3]]}]
    preprocess_sft(config(write_rows(tmp_path / "in.jsonl", data), tmp_path / "out", tokenizer, template="tokenizer"))
    original, saved = (
        AutoTokenizer.from_pretrained(tokenizer),
        AutoTokenizer.from_pretrained(tmp_path / "out.tokenizer"),
    )
    expected = [
        original.apply_chat_template(row["messages"], tools=row.get("tools"), return_dict=False) for row in data
    ]
    assert [ids for ids, _ in rows(tmp_path / "out")] == expected
    assert "<|im_start|>system" in original.decode(expected[0])
    assert saved.chat_template == original.chat_template


@pytest.mark.parametrize("result", ["1", "Brest", "tide_table"])
def test_a_result_that_the_call_before_it_contains_does_not_end_the_call(
    tmp_path: Path, tokenizer: Path, result: str
) -> None:
    call = {"type": "function", "function": {"name": "tide_table", "arguments": {"port": "Brest", "day": 1}}}
    dialogue = [ASK, {**DIALOGUE[1], "tool_calls": [call]}, {"role": "tool", "content": result}, DIALOGUE[3]]
    source = write_rows(tmp_path / "in.jsonl", [{"messages": dialogue, "tools": [TOOL]}])
    preprocess_sft(config(source, tmp_path / "out", with_template(tokenizer, TEMPLATE), template="tokenizer"))
    from transformers import AutoTokenizer

    ((ids, roles),) = rows(tmp_path / "out")
    original = AutoTokenizer.from_pretrained(tokenizer)
    trained = original.decode([one for one, role in zip(ids, roles, strict=True) if role])
    written = '<call>{"name": "tide_table", "arguments": {"port": "Brest", "day": 1}}</call>'
    assert trained == f"{written}<|im_end|>4.2 metres.<|im_end|>"


@pytest.mark.parametrize("template", ["tokenizer", "chatml", "vicuna"])
def test_functions_without_a_place_in_the_template_are_dropped_and_counted(
    tmp_path: Path, tokenizer: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with a template that renders what it knows and says nothing of the rest."""
    plain = {"messages": [ASK, DIALOGUE[3]]}
    data = [SHAREGPT, plain, {"messages": DIALOGUE}, {**plain, "tools": [TOOL]}]
    source = write_rows(tmp_path / "in.jsonl", data)
    sidecar = preprocess_sft(config(source, tmp_path / "out", with_template(tokenizer, PLAIN), template=template))
    assert sidecar.num_documents == 1
    assert sidecar.sft is not None and sidecar.sft["counts"]["dropped_functions"] == 3
    said = capsys.readouterr().err
    other = "" if template == "tokenizer" else "; --template tokenizer may have one"
    assert f"with functions, for which the template {template!r} has no place{other} (3): first {source}:1" in said


def test_what_the_template_does_not_use_of_a_message_is_named(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    row = {"messages": [ASK, answer], "chat_template_kwargs": {"enable_thinking": True}}
    source = write_rows(tmp_path / "in.jsonl", [row])
    preprocess_sft(config(source, tmp_path / "out", with_template(tokenizer, PLAIN), template="tokenizer"))
    said = capsys.readouterr().err
    assert "  chat_template_kwargs.enable_thinking (1): first" in said
    assert "  messages.reasoning_content (1): first" in said
    used = "{% if enable_thinking %}on{% endif %}" + PLAIN.replace(
        "message.content", "(message.reasoning_content or '') + message.content"
    )
    preprocess_sft(config(source, tmp_path / "used", with_template(tokenizer, used), template="tokenizer"))
    assert "not used" not in capsys.readouterr().err


@pytest.mark.parametrize("role", ["developer", "system", "ipython"])
def test_messages_that_the_template_leaves_out_are_named(
    tmp_path: Path, tokenizer: Path, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not those that it only writes otherwise."""
    left_out = PLAIN.replace("in messages %}", "in messages if message.role in ('user', 'assistant') %}")
    words = {"role": role, "content": "e"}
    data = [{"messages": [ASK, DIALOGUE[3]]}, {"messages": [words, ASK, DIALOGUE[3]]}]
    source = write_rows(tmp_path / "in.jsonl", data)
    whole = [{"messages": [words, ASK, DIALOGUE[3]]}]
    upper = PLAIN.replace("message.content +", "message.content | upper +")
    for template, rows_of in ((upper, whole), (left_out, data)):
        write_rows(source, rows_of)
        settings = config(source, tmp_path / "out", with_template(tokenizer, template), overwrite=True)
        assert preprocess_sft(settings).num_documents == len(rows_of)
        assert (f"  messages[role={role}] (1): first {source}:2" in capsys.readouterr().err) == (rows_of is data)
    with pytest.raises(UserError, match=rf"--strict: records .*\n  messages\[role={role}\] \(1\): first"):
        preprocess_sft(config(source, tmp_path / "strict", tokenizer, strict=True))
    assert (
        preprocess_sft(
            config(source, tmp_path / "known", tokenizer, strict=True, ignore_keys=(f"messages[role={role}]",))
        ).num_documents
        == 2
    )
