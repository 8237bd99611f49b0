"""The specification of the masks: the same functions as `meap_megatron.masking`, written to be read.

The steps of strategy `random`, for seed s, dataset key d and sample index i (all 64-bit, split into low and high
32-bit words):

1. key = the first two words of philox4x32(counter=(d_low, d_high, 0x4D454150, 0), key=(s_low, s_high)).
2. words = the words of philox4x32(counter=(block, stream, i_low, i_high), key) for block = 0, 1, ... in order, with
   stream 0 for `random` and 1 for `span`.
3. A bounded integer takes words until one is accepted (Lemire): `below`.
4. Floyd's algorithm takes one bounded integer per masked position: `choose_sorted`.

The C++ must agree bit for bit (tests/masking/test_reference.py). NumPy and the standard library only, and slow.
"""

import random
from collections.abc import Iterator
from itertools import count as count_from

import numpy as np
from numpy.typing import NDArray

from meap_megatron.masking.arguments import batch_counts, counts, num_masked

__all__ = ["mask_positions", "mask_positions_batch", "num_masked", "philox4x32"]

WORD = 2**32
DOMAIN = 0x4D454150  # "MEAP"
RANDOM_STREAM, SPAN_STREAM = 0, 1


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


def random_positions(words: Iterator[int], num_eligible: int, count: int) -> NDArray[np.int64]:
    """Return int64[count]: indices into the eligible positions, strategy `random`."""
    return choose_sorted(words, num_eligible, count)


def span_positions(words: Iterator[int], num_eligible: int, count: int, span_length: int) -> NDArray[np.int64]:
    """Return int64[count]: indices into the eligible positions, strategy `span`.

    Given 10 eligible positions, count 5 and span_length 3, there are 2 runs, of 3 and 2. With each run shrunk to one
    slot there are 10 - 5 + 2 = 7 slots, of which 2 are chosen, say 1 and 4 (`.S..S..`), and then the short run, say
    the first: `.SS..SSS..`, positions 1, 2, 5, 6, 7.
    """
    num_spans = -(-count // span_length)
    slots = choose_sorted(words, num_eligible - count + num_spans, num_spans)
    lengths = [span_length] * num_spans
    if count % span_length:
        lengths[below(words, num_spans)] = count % span_length
    starts = [int(slot) - span + sum(lengths[:span]) for span, slot in enumerate(slots)]
    runs = [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    return np.concatenate(runs).astype(np.int64)


def official51_positions(step: int, length: int, count: int) -> NDArray[np.int64]:
    """Return int64[count]: the set of the official MEAP code at this optimizer step (CPython's own generator)."""
    generator = random.Random(50 + step % 51)
    return np.array(sorted(generator.sample(range(0, length - 1), count)), dtype=np.int64)


def mask_positions(
    *,
    seed: int,
    dataset_key: int,
    sample_index: int,
    length: int,
    ratio: float,
    strategy: str = "random",
    span_length: int = 1,
    step: int | None = None,
    eligible: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the masked input positions of one sample: int64[k]; see `meap_megatron.masking.mask_positions`.

    Raises:
        UserError: (a ValueError) an argument breaks its rule; the message names it.
    """
    num_eligible, count = counts(
        seed=seed,
        dataset_key=dataset_key,
        sample_index=sample_index,
        length=length,
        ratio=ratio,
        strategy=strategy,
        span_length=span_length,
        step=step,
        eligible=eligible,
    )
    if count == 0:
        return np.empty(0, dtype=np.int64)
    if strategy == "official51":
        return official51_positions(step or 0, length, count)
    key = mask_key(seed, dataset_key)
    if strategy == "span":
        chosen = span_positions(word_stream(key, SPAN_STREAM, sample_index), num_eligible, count, span_length)
    else:
        chosen = random_positions(word_stream(key, RANDOM_STREAM, sample_index), num_eligible, count)
    return chosen if eligible is None else eligible[chosen]


def mask_positions_batch(
    *,
    seed: int,
    dataset_key: int,
    sample_indices: NDArray[np.int64],
    length: int,
    ratio: float,
    strategy: str = "random",
    span_length: int = 1,
) -> NDArray[np.int64]:
    """Return the masked input positions of many samples: int64[b, k]; see `meap_megatron.masking`.

    Raises:
        UserError: (a ValueError) an argument breaks its rule; the message names it.
    """
    _, count = batch_counts(
        seed=seed,
        dataset_key=dataset_key,
        sample_indices=sample_indices,
        length=length,
        ratio=ratio,
        strategy=strategy,
        span_length=span_length,
    )
    result = np.empty((len(sample_indices), count), dtype=np.int64)
    for row, sample_index in enumerate(sample_indices):
        result[row] = mask_positions(
            seed=seed,
            dataset_key=dataset_key,
            sample_index=int(sample_index),
            length=length,
            ratio=ratio,
            strategy=strategy,
            span_length=span_length,
        )
    return result
