"""The fuzzer of the .idx reader finds nothing in a bounded run; `make fuzz` runs a million inputs."""

from tests.native.index_fuzz import VERIFIED, run


def test_damaged_indices_are_refused_or_read_as_their_bytes_say(tmp_path):
    accepted, verified = run(tmp_path, num_inputs=4000, seed=2026)
    # Both kinds of input occur, and verify has seen some of them.
    assert 1000 < accepted < 3000
    assert verified > 4000 / VERIFIED / 2
