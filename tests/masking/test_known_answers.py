"""The numbers printed in the comments of csrc/. If one fails, the masks of earlier runs are lost."""

import random

import numpy as np
import pytest

from meap_megatron import _C
from meap_megatron.masking import mask_positions, philox, reference

SEED, DATASET_KEY, SAMPLE = 1234, 0x0123456789ABCDEF, 7

PUBLISHED = [  # Random123, kat_vectors, philox4x32 with 10 rounds
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
@pytest.mark.parametrize("block", [_C.philox4x32, philox.philox4x32], ids=["cpp", "reference"])
def test_philox_gives_the_published_words(block, counter, key, words):
    assert block(counter, key) == words


def test_the_stream_of_a_sample_starts_as_printed():
    stream = philox.word_stream(philox.mask_key(SEED, DATASET_KEY), philox.RANDOM_STREAM, SAMPLE)
    assert [next(stream) for _ in range(4)] == [0x355DB5B7, 0x021B09A8, 0x37502DCC, 0x66F19B31]


@pytest.mark.parametrize("module", ["cpp", "reference"])
def test_positions_are_as_printed(module):
    call = mask_positions if module == "cpp" else reference.mask_positions
    common = {"seed": SEED, "dataset_key": DATASET_KEY, "sample_index": SAMPLE, "length": 16}
    assert call(**common, ratio=0.33).tolist() == [0, 2, 5, 11, 12]
    assert call(**common, ratio=0.45, strategy="span", span_length=3).tolist() == [4, 5, 6, 8, 9, 10, 13]
    assert call(**common, ratio=0.33, strategy="official51", step=0).tolist() == [4, 5, 7, 10, 13]
    official = call(**common | {"length": 256}, ratio=0.02, strategy="official51", step=3)
    assert official.tolist() == [55, 116, 157, 218, 227]


def test_the_mersenne_twister_starts_as_printed():
    generator = random.Random(50)
    assert [generator.getrandbits(32) for _ in range(3)] == [0x7F5E8E61, 0xDB0EDA40, 0x4423F60D]


def test_large_samples_and_indices_have_fixed_masks():
    far = mask_positions(seed=2**64 - 1, dataset_key=2**64 - 1, sample_index=2**63 - 1, length=4096, ratio=0.15)
    assert (far.size, int(far.sum()), far[:4].tolist()) == (614, 1333491, [28, 36, 53, 56])
    assert np.array_equal(
        far,
        reference.mask_positions(
            seed=2**64 - 1, dataset_key=2**64 - 1, sample_index=2**63 - 1, length=4096, ratio=0.15
        ),
    )
