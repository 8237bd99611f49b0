"""The tokenizers and chat templates of Qwen3 and Llama-3 themselves, over all shapes of conversation."""

import itertools
from typing import Any

import pytest

from tests.corpus.sft.chat_shapes import SHAPES, TALK, Q, bot
from tests.corpus.sft.test_oracle import REFUSED, Chat
from tests.real.downloads import real as package

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=["qwen3", "llama3"])
def real(request: pytest.FixtureRequest) -> tuple[str, Chat]:
    return request.param, Chat(package(request.param))


def spans(chat: Chat, shape: dict[str, Any]) -> list[tuple[int, str]]:
    found = chat.row(shape)
    assert not isinstance(found, str), found
    groups = itertools.groupby(zip(*found, strict=True), key=lambda pair: pair[1])
    return [(role, chat.oracle.decode([index for index, _ in group])) for role, group in groups if role]


def test_ids_are_those_of_transformers(real: tuple[str, Chat]) -> None:
    _, chat = real
    rendered = 0
    for name, shape in SHAPES.items():
        further = {key: value for key, value in shape.items() if key != "messages"}
        found = chat.row(shape)
        try:
            expected = chat.oracle.apply_chat_template(shape["messages"], return_dict=False, **further)
        except Exception as error:
            spoken = [{**one, "content": one["content"] or ""} for one in shape["messages"]]
            if spoken == shape["messages"]:
                assert found == REFUSED + str(error), name
                continue
            expected = chat.oracle.apply_chat_template(spoken, return_dict=False, **further)
        assert not isinstance(found, str) and found[0] == expected, name
        rendered += 1
    assert rendered >= 50


def test_several_turns_train_the_answers_and_their_end(real: tuple[str, Chat]) -> None:
    name, chat = real
    end = {"qwen3": "<|im_end|>", "llama3": "<|eot_id|>"}[name]
    assert spans(chat, {"messages": TALK}) == [
        *((1, "Pear."), (2, end)),
        *((1, "A plum, which is\nsmaller."), (2, end)),
    ]


def test_thoughts_are_trained_as_the_template_writes_them(real: tuple[str, Chat]) -> None:
    name, chat = real
    thought = "<think>\nSix sevens.\n</think>\n\nIt is 42."
    end = {"qwen3": "<|im_end|>", "llama3": "<|eot_id|>"}[name]
    first = "It is 42." if name == "qwen3" else thought  # Qwen3 removes the thoughts of earlier turns
    talk = {"messages": [Q, bot(thought), Q, bot(thought)]}
    assert spans(chat, talk) == [(1, first), (2, end), (1, thought), (2, end)]


def test_calls_are_trained_as_the_template_writes_them(real: tuple[str, Chat]) -> None:
    name, chat = real
    shape = SHAPES["a call and its result"]
    call = '<tool_call>\n{"name": "tide", "arguments": {"port": "Brest", "day": 3}}\n</tool_call>'
    expected = [(1, call), (2, "<|im_end|>"), (1, "4.2 metres."), (2, "<|im_end|>")]
    # Llama-3's first template has no place for calls: what it writes for one is not trained.
    assert spans(chat, shape) == (expected if name == "qwen3" else [(1, "4.2 metres."), (2, "<|eot_id|>")])
