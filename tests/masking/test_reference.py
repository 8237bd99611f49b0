"""C++ against the NumPy specification: bit-identical on more than 10,000 drawn cases."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap_megatron import _C, masking
from meap_megatron.masking import philox, reference
from meap_megatron.masking.strategies import STRATEGIES, Draw

UNSIGNED_64 = st.integers(0, 2**64 - 1)
INDEX = st.one_of(st.integers(0, 1000), st.integers(0, 2**63 - 1))
LENGTH = st.one_of(st.integers(2, 40), st.integers(2, 40), st.integers(2, 300))
RATIO = st.one_of(st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.2, 0.5]), st.floats(0, 1, exclude_max=True))
DRAWN = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(DRAWN, max_examples=5000)
@given(seed=UNSIGNED_64, key=UNSIGNED_64, index=INDEX, length=LENGTH, ratio=RATIO)
def test_random_equals_the_reference(seed, key, index, length, ratio):
    case = {"seed": seed, "dataset_key": key, "sample_index": index, "length": length, "ratio": ratio}
    assert np.array_equal(masking.mask_positions(**case), reference.mask_positions(**case))


@settings(DRAWN, max_examples=4000)
@given(seed=UNSIGNED_64, key=UNSIGNED_64, index=INDEX, length=LENGTH, ratio=RATIO, data=st.data())
def test_span_equals_the_reference(seed, key, index, length, ratio, data):
    case = {"seed": seed, "dataset_key": key, "sample_index": index, "length": length, "ratio": ratio}
    case |= {"strategy": "span", "span_length": data.draw(st.integers(1, length - 1))}
    assert np.array_equal(masking.mask_positions(**case), reference.mask_positions(**case))


@settings(DRAWN, max_examples=2000)
@given(seed=UNSIGNED_64, index=INDEX, length=LENGTH, ratio=RATIO, strategy=st.sampled_from(["random", "span"]))
def test_protected_positions_equal_the_reference(seed, index, length, ratio, strategy):
    eligible = np.flatnonzero(np.random.default_rng(seed).random(length) < 0.7)
    case = {"seed": seed, "dataset_key": 5, "sample_index": index, "length": length, "ratio": ratio}
    case |= {"strategy": strategy, "span_length": max(1, eligible.size // 3), "eligible": eligible}
    expected = reference.mask_positions(**case)
    assert np.array_equal(masking.mask_positions(**case), expected)
    assert np.isin(expected, eligible).all()


@settings(DRAWN, max_examples=1000)
@given(step=st.integers(0, 10**6), length=st.one_of(st.integers(2, 120), st.integers(2, 3000)), ratio=RATIO)
def test_official51_equals_cpython(step, length, ratio):
    case = {"seed": 0, "dataset_key": 0, "sample_index": 0, "length": length, "ratio": ratio}
    positions = masking.mask_positions(**case, strategy="official51", step=step)
    if ratio == 0:
        assert positions.size == 0
    else:
        random.seed(50 + step % 51)
        expected = sorted(random.sample(range(0, length - 1), max(1, int(length * ratio))))
        assert positions.tolist() == expected


@settings(DRAWN, max_examples=300)
@given(seed=UNSIGNED_64, length=LENGTH, ratio=RATIO, strategy=st.sampled_from(["random", "span"]))
def test_the_batch_equals_the_loop(seed, length, ratio, strategy):
    case = {"seed": seed, "dataset_key": 3, "length": length, "ratio": ratio}
    case |= {"strategy": strategy, "span_length": 1 + (length - 1) // 4}
    indices = np.array([0, 9, 2, 2**40], dtype=np.int64)
    batch = masking.mask_positions_batch(**case, sample_indices=indices)
    rows = [reference.mask_positions(**case, sample_index=int(index)) for index in indices]
    assert np.array_equal(batch, np.stack(rows))


@pytest.mark.parametrize("ratio", [0.05, 0.10, 0.15, 0.20])
def test_official51_gives_all_51_sets_of_the_official_code(ratio):
    sets = set()
    for step in range(102):
        positions = masking.mask_positions(
            seed=0, dataset_key=0, sample_index=step, length=4096, ratio=ratio, strategy="official51", step=step
        )
        random.seed(50 + step % 51)
        assert positions.tolist() == sorted(random.sample(range(0, 4095), int(4096 * ratio)))
        sets.add(positions.tobytes())
    assert len(sets) == 51


def test_long_samples_equal_the_reference():
    for strategy, ratio in (("random", 0.15), ("random", 0.9), ("span", 0.15)):
        case = {"seed": 11, "dataset_key": 12, "sample_index": 13, "length": 70_000, "ratio": ratio}
        case |= {"strategy": strategy, "span_length": 50}
        assert np.array_equal(masking.mask_positions(**case), reference.mask_positions(**case))


@pytest.mark.parametrize("first_range", [2**31 + 1, 3 * 2**30, 2**32 - 300, 100])
def test_rejected_words_are_skipped_by_both(first_range):
    """Near 2**31 every second word is rejected; with the ranges of real samples one in a million would be."""
    key, num_integers = (77, 88), 200
    words = philox.word_stream(key, 1, 5)
    expected = [philox.below(words, first_range + i) for i in range(num_integers)]
    assert _C.bounded_integers(key, 1, 5, first_range, num_integers).tolist() == expected
    if first_range == 2**31 + 1:
        assert next(words) != next(w for i, w in enumerate(philox.word_stream(key, 1, 5)) if i == num_integers)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("first_block", "sample_index"), [(0, 0), (3, 2**40 + 9), (2**32 - 8, 2**63 - 1)])
def test_words_are_the_same_with_and_without_simd(plain, first_block, sample_index):
    key, stream = (0xFFFFFFFF, 0x80000001), 1
    words = _C.philox_words(key, first_block, stream, sample_index, 8, plain)
    for block in range(8):
        counter = (first_block + block, stream, sample_index % 2**32, sample_index // 2**32)
        assert tuple(words[4 * block : 4 * block + 4].tolist()) == philox.philox4x32(counter, key)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_a_native_function_of_its_name(name):
    draw = Draw(seed=3, dataset_key=4, sample_index=5, num_eligible=63, count=9, span_length=4, step=6)
    chosen = _C.choose_positions(name, 3, 4, 5, 63, 9, 4, 6)
    assert chosen.tolist() == STRATEGIES[name].choose(draw).tolist()
    with pytest.raises(ValueError, match="unknown strategy 'every second'"):
        _C.choose_positions("every second", 3, 4, 5, 63, 9, 4, 6)
