"""A GPU says what a CPU says, and keeps its cache over the turns of a conversation."""

from pathlib import Path

import pytest

from meap_megatron.generation.answer import Sampling, answer, chat_ids, prompt_ids
from meap_megatron.generation.conversation import ChatSession
from meap_megatron.generation.model import Source, open_model
from tests.generation.conftest import MASK_ID, chat_model

__all__ = ["chat_model"]


@pytest.mark.parametrize("folder", ["mc", "out"])
def test_a_gpu_says_what_a_cpu_says(chat_model: Path, folder: str) -> None:
    ours, theirs = (open_model(Source(model=chat_model / folder, device=name)) for name in ("cuda", "cpu"))
    prompts = [prompt_ids(ours, text) for text in ("a", "def main(argument):\n    return")]
    sampling = Sampling(max_tokens=16)
    assert answer(ours, prompts, sampling) == answer(theirs, prompts, sampling)
    assert MASK_ID in ours.never and ours.model.device.type == "cuda"


def test_a_conversation_on_a_gpu_is_what_it_is_without_a_cache(chat_model: Path) -> None:
    opened = open_model(Source(model=chat_model / "mc", device="cuda"))
    conversation = ChatSession(opened, Sampling(max_tokens=12))
    for question in ("First of all, " * 8, "And then?"):
        conversation.ask(question, lambda new: None)
        ids = chat_ids(opened, conversation.messages[:-1])
        assert conversation.messages[-1]["content"] == answer(opened, [ids], Sampling(max_tokens=12))[0].text
