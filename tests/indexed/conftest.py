"""As in the corpus tests: nothing is flushed to the disk, and a tokenizer of seven words."""

from tests.corpus.conftest import no_fsync, word_tokenizer  # noqa: F401
