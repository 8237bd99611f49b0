import json
from pathlib import Path

import pytest

from tests.support.corpus import byte_level, opening, save, write_word_tokenizer

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "d"]


@pytest.fixture
def word_tokenizer(tmp_path: Path) -> Path:
    """A folder: every word one id (<s> 1, </s> 2, a 3, b 4, c 5, d 6), unknown words 0; [MASK] becomes 7.

    As Llama's, it puts BOS before a text.
    """
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return write_word_tokenizer(tmp_path / "words", WORDS, special=WORDS[:3], **names)


@pytest.fixture(scope="session")
def bpe_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 600 ids, trained here; [MASK] becomes 600. It puts BOS before a text."""
    tokenizer = byte_level([Path(json.__file__).read_text()], vocab_size=600, special=("<s>", "</s>"))
    return save(opening(tokenizer, "<s>"), tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="session")
def llama_model() -> Path:
    """A real SentencePiece model of 32,000 pieces, as Llama-2's."""
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test loses no power; hundreds of flushes to a shared disk take most of its time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
