"""A small corpus, and the settings of a job of 1,024 processes that it fits."""

from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets, `data` and `other`, of different tokenizers."""
    root = tmp_path_factory.mktemp("rehearsal")
    texts = library_texts(150_000)
    write_jsonl(root / "corpus.jsonl", texts)
    for name, size in (("data", 300), ("other", 320)):
        write_byte_tokenizer(root / f"{name}_tokenizer", vocab_size=size, texts=texts[:3])
        words = ["preprocess", "text", str(root / "corpus.jsonl"), "--tokenizer", str(root / f"{name}_tokenizer")]
        assert main([*words, "--output", str(root / name)]) == 0
    return root
