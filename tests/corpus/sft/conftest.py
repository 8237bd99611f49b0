from pathlib import Path

import pytest

from tests.corpus.sft.sft_samples import WORDS
from tests.support.conversations import write_chat_tokenizer
from tests.support.corpus import write_word_tokenizer

SPECIAL = [word for word in WORDS if word.startswith("<")]


@pytest.fixture
def chat_words(tmp_path: Path) -> Path:
    """A folder: every word of WORDS its number, other words 0; [MASK] becomes 26."""
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return write_word_tokenizer(tmp_path / "words", WORDS, special=SPECIAL, **names)


@pytest.fixture(scope="session")
def chat_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with the tokens of Llama-3 and ChatML."""
    return write_chat_tokenizer(tmp_path_factory.mktemp("chat"), vocab_size=600)
