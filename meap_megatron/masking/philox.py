"""The random words of a sample, and distinct integers made of them: the specification of csrc/random.

For seed s, dataset key d and sample index i (all 64-bit, split into low and high 32-bit words):

1. key = the first two words of philox4x32(counter=(d_low, d_high, 0x4D454150, 0), key=(s_low, s_high)).
2. words = the words of philox4x32(counter=(block, stream, i_low, i_high), key) for block = 0, 1, ... in order.
3. A bounded integer takes words until one is accepted (Lemire): `below`.
4. Floyd's algorithm takes one bounded integer per chosen integer: `choose_sorted`.

NumPy and the standard library only, and slow.
"""

from collections.abc import Iterator
from itertools import count as count_from

import numpy as np
from numpy.typing import NDArray

WORD = 2**32
DOMAIN = 0x4D454150  # "MEAP"
RANDOM_STREAM, SPAN_STREAM, ANSWER_STREAM = 0, 1, 2
SAMPLE_STREAM, REPLACE_STREAM = WORD - 1, WORD - 2
"""No two uses of one key share a stream; each answer of a conversation has one of its own, from ANSWER_STREAM on."""


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return one block of Philox 4x32-10 (Salmon et al., SC'11): four 32-bit words."""
    (a, b, c, d), (key0, key1) = counter, key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (product1 // WORD) ^ b ^ key0, product1 % WORD, (product0 // WORD) ^ d ^ key1, product0 % WORD
        key0, key1 = (key0 + 0x9E3779B9) % WORD, (key1 + 0xBB67AE85) % WORD
    return a, b, c, d


def mask_key(seed: int, dataset_key: int) -> tuple[int, int]:
    """Return the Philox key of all samples of one dataset under one seed."""
    words = philox4x32((dataset_key % WORD, dataset_key // WORD, DOMAIN, 0), (seed % WORD, seed // WORD))
    return words[:2]


def word_stream(key: tuple[int, int], stream: int, sample_index: int) -> Iterator[int]:
    """Yield the 32-bit words of one sample."""
    for block in count_from():
        yield from philox4x32((block, stream, sample_index % WORD, sample_index // WORD), key)


def below(words: Iterator[int], limit: int) -> int:
    """Return a uniform integer in 0..limit-1 (Lemire's multiply-shift; the rejection removes the bias)."""
    while True:
        product = next(words) * limit
        if product % WORD >= WORD % limit:
            return product // WORD


def choose_sorted(words: Iterator[int], num_candidates: int, count: int) -> NDArray[np.int64]:
    """Return int64[count]: distinct integers of 0..num_candidates-1, ascending, uniform over sets (Floyd)."""
    taken: set[int] = set()
    for last in range(num_candidates - count, num_candidates):
        drawn = below(words, last + 1)
        taken.add(last if drawn in taken else drawn)
    return np.array(sorted(taken), dtype=np.int64)


def sample_uniforms(seed: int, dataset_key: int, sample_index: int) -> tuple[float, float]:
    """Return two doubles in [0, 1) of a sample: one decides whether it stays clean, one its ratio within a range."""
    words = word_stream(mask_key(seed, dataset_key), SAMPLE_STREAM, sample_index)
    return next(words) / WORD, next(words) / WORD
