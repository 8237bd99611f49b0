"""The tokenizers of the corpus tests."""

from tests.corpus.conftest import bpe_tokenizer, llama_model, no_fsync, word_tokenizer  # noqa: F401
