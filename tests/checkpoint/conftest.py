"""No test of checkpoints waits for the disk."""

from tests.corpus.conftest import no_fsync  # noqa: F401
