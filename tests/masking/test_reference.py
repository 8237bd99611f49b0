"""C++ against the NumPy specification: bit-identical on more than 10,000 drawn cases."""

import random

import numpy as np
import pytest

from meap_megatron import _C, masking
from meap_megatron.masking import philox, reference
from meap_megatron.masking.strategies import STRATEGIES, Draw

RATIOS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.5]


def drawn(count, *, longest=300):
    """Yield so many cases: arguments of `mask_positions`, and a generator for more of them."""
    for number in range(count):
        draw = random.Random(number)
        yield (
            {
                "seed": draw.getrandbits(64),
                "dataset_key": draw.getrandbits(64),
                "sample_index": draw.choice([draw.randrange(1000), draw.getrandbits(63)]),
                "length": draw.choice([draw.randint(2, 40), draw.randint(2, 40), draw.randint(2, longest)]),
                "ratio": draw.choice([draw.choice(RATIOS), draw.random()]),
            },
            draw,
        )


def check(case):
    """Return the positions of the specification after checking that C++ gives the same."""
    expected = reference.mask_positions(**case)
    assert masking.mask_positions(**case).tolist() == expected.tolist(), case
    return expected


def test_random_equals_the_reference():
    for case, _ in drawn(5000):
        check(case)


def test_span_equals_the_reference():
    for case, draw in drawn(4000):
        check(case | {"strategy": "span", "span_length": draw.randint(1, case["length"] - 1)})


def test_protected_positions_equal_the_reference():
    for case, draw in drawn(2000):
        eligible = np.flatnonzero([draw.random() < 0.7 for _ in range(case["length"])])
        strategy = {"strategy": draw.choice(["random", "span"]), "span_length": max(1, eligible.size // 3)}
        assert np.isin(check(case | strategy | {"eligible": eligible}), eligible).all()


def test_official51_equals_cpython():
    for case, draw in drawn(1000, longest=3000):
        step, length, ratio = draw.randrange(10**6), case["length"], case["ratio"]
        random.seed(50 + step % 51)
        expected = sorted(random.sample(range(0, length - 1), max(1, int(length * ratio)))) if ratio else []
        assert check(case | {"strategy": "official51", "step": step}).tolist() == expected, case


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
