import json
from pathlib import Path

import pytest

from tests.corpus.sft.sft_samples import WORDS
from tests.support.conversations import write_chat_tokenizer

SPECIAL = [word for word in WORDS if word.startswith("<")]
MASK_ID = len(WORDS)


@pytest.fixture
def chat_words(tmp_path: Path) -> Path:
    """A folder: every word of WORDS its number, other words 0; [MASK] becomes 26."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder = tmp_path / "words"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture(scope="session")
def chat_bytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE with the tokens of Llama-3 and ChatML."""
    return write_chat_tokenizer(tmp_path_factory.mktemp("chat"), vocab_size=600)
