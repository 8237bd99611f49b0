"""A row of each format to a conversation; keys do what they say, are refused by name, or are named as not used."""

import json
from typing import Any

import pytest

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.records import Dropped, Record, RecordOptions, detect_format, to_record
from meap_megatron.corpus.sft.turns import function_names
from meap_megatron.errors import UserError
from tests.corpus.sft.sft_samples import config

Said = tuple[str, str | None]


def read(row: dict[str, Any], **options: Any) -> Record | Dropped | str:
    return to_record(row, RecordOptions(**options))


def conversation(row: dict[str, Any], **options: Any) -> Conversation:
    found = read(row, **options)
    assert isinstance(found, Record), found
    assert not found.unused
    return found.conversation


def said(row: dict[str, Any], **options: Any) -> list[Said]:
    """Role and content of every message."""
    return [(one.role, one.content) for one in conversation(row, **options).messages]


def trained(row: dict[str, Any]) -> list[str | None]:
    return [one.content for one in conversation(row).messages if one.trained]


def turns(*pairs: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": name, "value": value} for name, value in pairs], **more}


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


QA = [("user", "q"), ("assistant", "a")]
ASKED = [message("user", "q"), message("assistant", "a")]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"id": 1, "conversations": []}, "sharegpt"),
        ({"conversation": []}, "sharegpt"),
        ({"messages": []}, "messages"),
        ({"messages": None, "instruction": "a"}, "alpaca"),
        ({"messages": [], "prompt": "a", "completion": "b"}, "pairs"),
        ({"prompt": "a", "completion": "b"}, "pairs"),
        ({"question": "a", "answer": "b"}, "pairs"),
        ({"query": "a", "response": "b"}, "pairs"),
        ({"input": "a", "output": "b"}, "pairs"),
        ({"prompt": "a"}, None),
        ({"text": "a"}, None),
    ],
)
def test_the_format_is_read_off_the_keys(row: dict[str, Any], kind: str | None) -> None:
    assert detect_format(row) == kind


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": "a"},
        {"instruction": "q", "input": "", "output": "a", "system": "", "history": []},
        {"instruction": "q", "input": None, "response": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"question": "q", "answer": "a"},
        {"query": "q", "response": "a"},
        {"input": "q", "output": "a"},
        {"prompt": [message("user", "q")], "completion": [message("assistant", "a")]},
        {"prompt": "q", "completion": [message("assistant", "a")]},
        turns(("human", "q"), ("gpt", "a")),
        turns(("user", "q"), ("assistant", "a"), system=None, tools="[]"),
        turns(("Human", "q"), ("chatgpt", "a")),
        turns(("human", "q"), ("bing", "a")),
        {"conversation": [{"from": "human", "value": "q"}, {"from": "model", "value": "a"}]},
        {"conversations": ASKED},
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": ASKED, "tools": [], "functions": None, "parallel_tool_calls": False},
        {"messages": json.dumps(ASKED)},
        {"messages": [message("user", [{"type": "text", "text": "q"}]), message("assistant", ["a"])]},
        {"messages": [message("user", [{"type": "text", "value": "q"}]), message("model", "a")]},
        {"messages": [message("user", "q", weight=0), message("assistant", "a", weight=1, train=True)]},
        {"messages": [message("user", "q", loss_weight=0.0), message("assistant", "a", loss_weight=1.0)]},
        {"messages": ASKED, "weight": 1, "train_on_inputs": False, "images": [], "chosen": None},
    ],
)
def test_rows_of_all_formats_say_the_same(row: dict[str, Any]) -> None:
    assert said(row) == QA
    assert trained(row) == ["a"]


def test_an_input_or_context_follows_the_instruction() -> None:
    for key in ("input", "context"):
        assert said({"instruction": "q", key: "i", "output": "a"}) == [("user", "q\nInput:\ni"), ("assistant", "a")]
    assert said({"question": "q", "context": "i", "answer": "a"})[0] == ("user", "q\nInput:\ni")


def test_system_and_history_of_alpaca_come_first_and_the_history_is_trained() -> None:
    row = {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]}
    assert said(row) == [("system", "s"), ("user", "q0"), ("assistant", "a0"), *QA]
    assert trained(row) == ["a0", "a"]
    assert said({**row, "history": [message("user", "q0"), message("assistant", "a0")]}) == said(row)
    template = said({**row, "history": None}, stanford="template")
    assert template == [("system", "s"), *QA], "the row's own system prompt replaces Stanford's"
    alone = said({"instruction": "q", "output": "a"}, stanford="template")
    assert alone[0][0] == "system" and str(alone[0][1]).startswith("Below is an instruction")


def test_a_system_prompt_of_the_row_is_used_where_the_dialogue_has_none() -> None:
    for key in ("system", "system_prompt"):
        row = turns(("human", "q"), ("gpt", "a"), **{key: "s"})
        assert said(row) == [("system", "s"), *QA]
        found = read(turns(("system", "t"), ("human", "q"), ("gpt", "a"), **{key: "s"}))
        assert isinstance(found, Record) and found.unused == (key,)
        assert found.conversation.messages[0] == Message(role="system", content="t")
        same = turns(("system", "s"), ("human", "q"), ("gpt", "a"), **{key: "s"})
        assert said({"messages": ASKED, key: "s"}) == said(same) == [("system", "s"), *QA]


@pytest.mark.parametrize(
    "names",
    [
        ("assistant", "user", "assistant"),
        ("user", "user", "assistant"),
        ("user", "assistant", "assistant"),
        ("user", "assistant", "user"),
        ("developer", "user", "assistant"),
        ("system", "user", "assistant", "system", "user", "assistant"),
        ("user", "critic", "assistant"),
    ],
)
def test_messages_of_any_order_and_role_reach_the_template(names: tuple[str, ...]) -> None:
    row = {"messages": [message(name, f"{number}") for number, name in enumerate(names)]}
    assert said(row) == [(name, f"{number}") for number, name in enumerate(names)]


CALL = {"name": "tide", "arguments": {"port": "Brest"}}
TOOL = {"name": "tide", "description": "d", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": TOOL}


def test_calls_of_sharegpt_become_those_of_a_chat_template() -> None:
    row = turns(
        ("human", "q"),
        ("function_call", json.dumps(CALL)),
        ("observation", "4.2"),
        ("gpt", "a"),
        tools=json.dumps([TOOL]),
    )
    found = conversation(row)
    assert [(one.role, one.content) for one in found.messages] == [
        ("user", "q"),
        ("assistant", ""),
        ("tool", "4.2"),
        ("assistant", "a"),
    ]
    assert found.messages[1].fields == {"tool_calls": [{"type": "function", "function": CALL}]}
    assert found.messages[1].trained and found.tools == (WRAPPED,)
    assert function_names(found) == {"tide"}
    several = conversation(turns(("human", "q"), ("function_call", json.dumps([CALL, CALL]))))
    assert len(several.messages[1].fields["tool_calls"]) == 2


def test_calls_of_openai_are_given_to_the_template_unchanged() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Brest"}'}}]
    answer = message("assistant", None, tool_calls=calls)
    result = message("tool", "4.2", tool_call_id="c1", name="tide")
    row = {"messages": [message("user", "q"), answer, result], "tools": [WRAPPED]}
    found = conversation(row)
    assert found.tools == (WRAPPED,)
    assert found.messages[1] == Message(role="assistant", content=None, fields={"tool_calls": calls})
    assert found.messages[2] == Message(role="tool", content="4.2", fields={"tool_call_id": "c1", "name": "tide"})
    text = {**row, "messages": [message("user", "q"), {**answer, "tool_calls": json.dumps(calls)}]}
    assert conversation(text).messages[1].fields == {"tool_calls": calls}
    older = {"role": "assistant", "content": None, "function_call": CALL}
    old = {"messages": [message("user", "q"), older, message("function", "4.2", name="tide")], "functions": [TOOL]}
    assert conversation(old).messages[1].fields == {"tool_calls": [{"type": "function", "function": CALL}]}
    assert conversation(old).messages[2].role == "tool" and conversation(old).tools == (WRAPPED,)


def test_thoughts_and_calls_among_the_parts_of_a_content_are_fields() -> None:
    parts = [
        {"type": "reasoning", "value": "hm"},
        {"type": "text", "value": "a"},
        {"type": "tool_call", "value": json.dumps(CALL)},
    ]
    found = read({"messages": [message("user", "q"), message("assistant", parts)]}, known=("reasoning_content",))
    assert isinstance(found, Record) and not found.unused
    assert found.conversation.messages[1].content == "a"
    assert found.conversation.messages[1].fields == {
        "reasoning_content": "hm",
        "tool_calls": [{"type": "function", "function": CALL}],
    }


def test_variables_of_the_template_come_from_the_row() -> None:
    row = {"messages": ASKED, "chat_template_kwargs": {"enable_thinking": False}}
    assert conversation(row, known={"enable_thinking"}).template_kwargs == {"enable_thinking": False}
    found = read(row)
    assert isinstance(found, Record) and found.unused == ("chat_template_kwargs.enable_thinking",)


@pytest.mark.parametrize(
    "flag", [{"train": False}, {"weight": 0}, {"loss_weight": 0.0}, {"loss": False}, {"training": 0}]
)
def test_an_answer_of_no_weight_is_context_only(flag: dict[str, Any]) -> None:
    dialogue = [message("user", "q"), message("assistant", "a", **flag), message("user", "r", train=None)]
    row = {"messages": [*dialogue, message("assistant", "b")]}
    assert trained(row) == ["b"]
    shared = turns(("human", "q"), ("gpt", "a"), ("human", "r"), ("gpt", "b"))
    shared["conversations"][1] |= flag
    assert trained(shared) == ["b"]
    assert read({"messages": dialogue}) == Dropped("unanswered")


def test_answers_in_a_prompt_of_messages_are_not_trained() -> None:
    prompt = [message("user", "q"), message("assistant", "x"), message("user", "r")]
    row = {"prompt": prompt, "completion": [message("assistant", "a")], "tools": [WRAPPED]}
    assert trained(row) == ["a"]
    assert len(conversation(row).messages) == 4 and conversation(row).tools == (WRAPPED,)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (turns(("human", None)), "conversations[0]: 'value' is null, expected a string"),
        ({"conversations": "text"}, "'conversations' is a text that is not JSON"),
        ({"conversations": '"text"'}, "'conversations' is a string, expected a list"),
        ({"conversations": [1]}, "conversations[0] is a number"),
        ({"conversations": [{"from": "human"}]}, "conversations[0]: no key 'value'"),
        ({"messages": [{"content": "q"}]}, "messages[0]: no key 'role'"),
        ({"messages": [message("user", "q"), message("assistant", None)]}, "messages[1]: 'content' is null"),
        ({"messages": [message("user", "q"), message("assistant", {})]}, "messages[1]: 'content' is an object"),
        (
            {"messages": [message("assistant", "a", train="no")]},
            "messages[0]: 'train' is 'no', expected true or false",
        ),
        (
            {"messages": [message("assistant", "a", weight=0.5)]},
            "messages[0]: 'weight' is 0.5, expected 0 or 1; weights",
        ),
        ({"messages": [message("assistant", "a", loss_weight=2)]}, "messages[0]: 'loss_weight' is 2, expected 0 or 1"),
        ({"messages": [message("user", "q", weight=1)]}, "messages[0]: 'weight' is 1 for the role 'user'; only an"),
        ({"messages": [message("assistant", "a", train_detail=[{"train": True}])]}, "messages[0]: 'train_detail'"),
        ({"messages": [message("assistant", "a\ud800")]}, "a text contains half of a surrogate pair"),
        ({"messages": ASKED, "tools": [{"name": "\ud800"}]}, "a text contains half of a surrogate pair"),
        ({"messages": ASKED, "tools": "get_tide"}, "'tools' is a text that is not JSON"),
        ({"messages": ASKED, "tools": [1]}, "'tools' has an element that is a number"),
        (
            turns(("human", "q"), ("function_call", "tide()")),
            "conversations[1]: the function call is a text that is not",
        ),
        (
            turns(("human", "q"), ("function_call", "[1]")),
            "conversations[1]: the function call is 1, expected an object",
        ),
        (
            {"messages": [message("user", [{"type": "image_url", "image_url": {"url": "x"}}])]},
            "messages[0]: 'content' has",
        ),
        (
            {"messages": [message("user", [{"type": "input_audio", "input_audio": {}}])]},
            "messages[0]: 'content' has a",
        ),
        ({"messages": [message("user", "q", images=["x.png"])]}, "messages[0]: 'images' is not supported"),
        (
            {"messages": [message("assistant", [{"type": "text", "text": "a", "train": False}])]},
            "messages[0]: a part of",
        ),
        ({"messages": ASKED, "images": ["x.png"]}, "'images': only text is supported"),
        ({"instruction": "q", "output": "a", "audios": ["x"]}, "'audios': only text is supported"),
        ({"instruction": "q", "output": "a", "weight": 0.5}, "'weight': a weight belongs to a message"),
        ({"instruction": "q", "output": "a", "weight": 0}, "'weight': a weight belongs to a message"),
        ({"instruction": "q", "output": "a", "train_on_inputs": True}, "'train_on_inputs': only answers are trained"),
        (
            {"instruction": "q", "output": "a", "history": ["x"]},
            "history[0] is 'x', expected a question and its answer",
        ),
        ({"instruction": "q", "output": "a", "system": 3}, "'system' is a number, expected a string"),
        ({"instruction": "q"}, "no key 'output'"),
        ({"question": "q", "answer": 5}, "'answer' is a number, expected a string"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "'chosen': records of preferences are not supported"),
        ({"prompt": "q", "completion": "a", "label": True}, "'label': records of preferences are not supported"),
        ({"prompt": "q"}, "the record has the keys ['prompt'], of no known format"),
        ({"text": "t"}, "the record has a 'text' and no question with its answer: meap preprocess text reads it"),
    ],
)
def test_rows_that_are_no_conversation_are_refused_by_name(row: dict[str, Any], reason: str) -> None:
    assert str(read(row)).startswith(reason)


@pytest.mark.parametrize("row", [{"messages": [message("user", "q")]}, {"messages": []}, turns(("human", "q"))])
def test_rows_without_an_answer_are_dropped(row: dict[str, Any]) -> None:
    assert read(row) == Dropped("unanswered")


def test_keys_that_hold_something_and_are_not_used_are_named() -> None:
    row = {
        "id": 0,
        "category": "c",
        "empty": "",
        "none": None,
        "messages": [
            message("user", [{"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}}], name="Ann"),
            message("assistant", "a", reasoning_content="hm", refusal=None, id="m1"),
        ],
    }
    found = read(row)
    assert isinstance(found, Record)
    assert found.unused == ("category", "content.cache_control", "id", "messages.name", "messages.reasoning_content")
    some = read(row, known={"name", "reasoning_content"}, ignored={"id", "content.cache_control"})
    assert isinstance(some, Record) and some.unused == ("category",)
    assert some.conversation.messages[1].fields["reasoning_content"] == "hm"


def test_columns_of_a_map_stand_for_what_a_row_needs() -> None:
    columns = {"question": "q", "answer": "reply", "input": "facts", "system": "role", "history": "past"}
    row = {"q": "q", "reply": "a", "facts": "i", "role": "s", "past": [["q0", "a0"]]}
    expected = [("system", "s"), ("user", "q0"), ("assistant", "a0"), ("user", "q\nInput:\ni"), ("assistant", "a")]
    assert said(row, columns=columns) == expected
    # A key that would mean something by its own name is not beside the column that is named for it.
    found = read({**row, "instruction": "x"}, columns=columns)
    assert isinstance(found, Record) and found.unused == ("instruction",)
    # The names may be exchanged.
    swapped = {"question": "output", "answer": "instruction"}
    assert said({"instruction": "a", "output": "q"}, columns=swapped) == QA
    assert said({"talk": ASKED, "offers": None}, columns={"messages": "talk", "tools": "offers"}) == QA


def test_a_column_that_is_missing_is_named() -> None:
    found = read({"q": "q"}, columns={"question": "q", "answer": "reply"})
    assert found == "no key 'reply' (--columns answer=reply), only ['q']"
    sparse = read({"q": "q", "a": "a"}, columns={"question": "q", "answer": "a", "system": "s"})
    assert isinstance(sparse, Record) and sparse.unused == ("--columns system=s: no such key",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"question": "q"}}, "--columns names no column for 'answer'"),
        ({"columns": {"query": "q"}}, "--columns: 'query' is not one of question, input, answer, system"),
        ({"columns": {"messages": "m", "answer": "a"}}, "--columns: messages contain 'answer' themselves"),
        ({"columns": {"question": "q", "answer": "q"}}, "--columns names one column twice"),
        ({"columns": {"question": "q", "answer": "a"}, "format": "sharegpt"}, "--columns and --format sharegpt"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(tmp_path: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path / "x", tmp_path / "out", tmp_path, **options)


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        ([("human", "q"), ("gpt", "a")], QA),
        ([("gpt", "x"), ("human", "q"), ("gpt", "a")], QA),
        ([("system", "s"), ("human", "q"), ("gpt", "a")], QA),
        # A call and its result keep their places in the order, so that the next answer is the one to the question.
        ([("human", "q"), ("function_call", "{}"), ("observation", "t"), ("gpt", "a")], QA),
        ([("human", "q"), ("tool", "t"), ("gpt", "a")], None),
        ([("human", "q"), ("human", "x"), ("gpt", "y"), ("gpt", "a")], QA),
        ([("human", "q"), ("gpt", "a"), ("human", "r")], None),
        ([("gpt", "a"), ("human", "q")], None),
        ([], None),
    ],
)
def test_the_official_mode_reads_sharegpt_as_the_official_code(
    dialogue: list[tuple[str, str]], expected: list[Said] | None
) -> None:
    found = read(turns(*dialogue), official=True)
    if expected is None:
        assert isinstance(found, Dropped) and found.kind == "unanswered"
    else:
        assert isinstance(found, Record)
        assert [(one.role, one.content) for one in found.conversation.messages] == expected
        left_out = {name for name, text in dialogue if (name, text) not in (("human", "q"), ("gpt", "a"))}
        assert set(found.unused) == {f"turns of {name!r} (--multi-turn split)" for name in left_out}


def test_the_official_mode_takes_the_system_prompt_of_the_row_alone() -> None:
    row = turns(("system", "t"), ("human", "q"), ("gpt", "a"), system_prompt="s", system="u", tools=[TOOL])
    found = read(row, official=True)
    assert isinstance(found, Record) and found.conversation.messages[0] == Message(role="system", content="s")
    assert found.unused == ("system", "tools", "turns of 'system' (--multi-turn split)")
    assert found.conversation.tools is None
