from typing import Any

import pytest

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.records import detect_format, to_conversation


def conversation(*pairs: tuple[str, str], system: str | None = None) -> Conversation:
    messages = [] if system is None else [Message(role="system", content=system)]
    for query, answer in pairs:
        messages += [Message(role="user", content=query), Message(role="assistant", content=answer)]
    return Conversation(messages=tuple(messages))


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": name, "value": value} for name, value in pairs]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"id": 1, "conversations": []}, "sharegpt"),
        ({"messages": []}, "messages"),
        ({"text": "a"}, None),
    ],
)
def test_the_format_is_read_off_the_keys(row: dict[str, Any], kind: str | None) -> None:
    assert detect_format(row) == kind


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}])
def test_an_empty_input_is_left_out(given: dict[str, Any]) -> None:
    assert to_conversation({"instruction": "q", "output": "a", **given}, "alpaca") == conversation(("q", "a"))


def test_an_input_follows_the_instruction() -> None:
    found = to_conversation({"instruction": "q", "input": "i", "output": "a"}, "alpaca")
    assert found == conversation(("q\nInput:\ni", "a"))


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (turns(("human", "q"), ("gpt", "a")), conversation(("q", "a"))),
        (turns(("gpt", "x"), ("human", "q"), ("gpt", "a")), conversation(("q", "a"))),
        (turns(("system", "s"), ("human", "q"), ("gpt", "a")), conversation(("q", "a"), system="s")),
        (turns(("system", "s"), ("gpt", "x"), ("human", "q"), ("gpt", "a")), conversation(("q", "a"), system="s")),
        # A role that is neither ends the dialogue; a turn out of order is skipped.
        (turns(("human", "q"), ("gpt", "a"), ("tool", "t"), ("gpt", "b")), conversation(("q", "a"))),
        (turns(("human", "q"), ("human", "x"), ("gpt", "y"), ("gpt", "a")), conversation(("q", "a"))),
        (turns(("user", "q"), ("assistant", "a")), conversation(("q", "a"))),
        (turns(("human", "q"), ("gpt", "a"), ("human", "r")), "the dialogue has 3 usable messages"),
        (turns(("gpt", "a"), ("human", "q")), "the dialogue has 1 usable messages"),
        ([], "the dialogue has 0 usable messages"),
        ("text", "'conversations' is a str, expected a list"),
        ([1], "conversations[0] is a int"),
        ([{"from": "human"}], "conversations[0]: no key 'value'"),
        ([{"from": "human", "value": None}], "conversations[0]: 'value' is null"),
    ],
)
def test_sharegpt_dialogues(dialogue: Any, expected: Conversation | str) -> None:
    found = to_conversation({"conversations": dialogue}, "sharegpt")
    assert found == expected if isinstance(expected, Conversation) else str(found).startswith(expected)


def test_a_system_prompt_of_the_row_is_used_where_the_dialogue_has_none() -> None:
    row = {"system_prompt": "s", "conversations": turns(("human", "q"), ("gpt", "a"))}
    assert to_conversation(row, "sharegpt") == conversation(("q", "a"), system="s")
    row["conversations"] = turns(("system", "t"), ("human", "q"), ("gpt", "a"))
    assert to_conversation(row, "sharegpt") == conversation(("q", "a"), system="t")


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("dialogue", "reason"),
    [
        ([message("user", "q")], "1 messages beside the system prompt"),
        ([message("system", "s")], "0 messages beside the system prompt"),
        ([message("assistant", "a"), message("user", "q")], "role 'assistant' where 'user' is expected"),
        ([message("user", "q"), message("tool", "t")], "role 'tool' where 'assistant' is expected"),
        ([message("user", "q"), message("assistant", None)], "messages[1]: 'content' is null"),
        ([message("user", "q"), message("assistant", [{}])], "messages[1]: 'content' is a list"),
        ([message("user", "q"), message("assistant", "a", train="no")], "messages[1]: 'train' is 'no'"),
        ([message("user", "q"), message("assistant", "a", train=False)], "every answer has 'train' false"),
        ([message("user", "q"), message("assistant", "a\ud800")], "a text holds half of a surrogate pair"),
    ],
)
def test_messages_that_are_no_conversation(dialogue: Any, reason: str) -> None:
    assert str(to_conversation({"messages": dialogue}, "messages")).startswith(reason)


def test_messages_keep_which_answers_are_trained() -> None:
    dialogue = [message("user", "q"), message("assistant", "a", train=False), message("user", "r", train=None)]
    found = to_conversation({"messages": [*dialogue, message("assistant", "b", train=True)]}, "messages")
    assert isinstance(found, Conversation)
    answers = [(one.content, one.train) for one in found.messages if one.role == "assistant"]
    assert answers == [("a", False), ("b", True)]
