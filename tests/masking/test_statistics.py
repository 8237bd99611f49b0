"""The masks are as random as they claim: uniform positions, uniform span placements, independent samples.

Seeds are fixed, so a test fails always or never; a threshold of p > 1e-3 leaves room for the luck of the one seed.
"""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from meap_megatron.masking import mask_positions

SMALLEST_P = 1e-3


def masks_of(num_samples: int, **arguments) -> np.ndarray:
    """Return bool[num_samples, length]."""
    masks = np.zeros((num_samples, arguments["length"]), dtype=bool)
    first = arguments.pop("first_sample", 0)
    for row, mask in enumerate(masks):
        mask[mask_positions(**{"seed": 1, "dataset_key": 2, "sample_index": first + row} | arguments)] = True
    return masks


@pytest.mark.parametrize(("length", "ratio"), [(4096, 0.15), (4096, 0.05), (64, 0.5), (33, 0.9)])
def test_every_position_is_masked_equally_often(length, ratio):
    num_samples = 20_000
    masks = masks_of(num_samples, length=length, ratio=ratio)
    counts = masks.sum(axis=0)
    assert counts[-1] == 0
    eligible, per_sample = length - 1, int(masks[0].sum())
    share = per_sample / eligible
    # Positions of one sample are drawn without replacement: the variance shrinks by (E - k) / (E - 1).
    variance = num_samples * share * (1 - share)
    statistic = ((counts[:-1] - num_samples * share) ** 2 / variance).sum() * (eligible - 1) / eligible
    assert SMALLEST_P < stats.chi2.sf(statistic, eligible - 1) < 1 - SMALLEST_P


@pytest.mark.parametrize(
    "neighbour",
    [{"first_sample": 1}, {"seed": 2}, {"dataset_key": 3}],
    ids=["index", "seed", "key"],
)
def test_neighbours_overlap_as_often_as_independent_sets(neighbour):
    arguments = {"length": 101, "ratio": 0.2}
    first, second = masks_of(5000, **arguments), masks_of(5000, **arguments | neighbour)
    overlaps = np.bincount((first & second).sum(axis=1), minlength=21)
    expected = 5000 * stats.hypergeom(100, 20, 20).pmf(np.arange(21))
    frequent = expected >= 5
    observed = np.append(overlaps[frequent], overlaps[~frequent].sum())
    wanted = np.append(expected[frequent], expected[~frequent].sum())
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > SMALLEST_P


def test_the_words_of_strategies_are_apart():
    """`span` with runs of one position has the distribution of `random`, but not its draws."""
    arguments = {"seed": 1, "dataset_key": 2, "sample_index": 3, "length": 4096, "ratio": 0.15}
    random_ = mask_positions(**arguments)
    span = mask_positions(**arguments, strategy="span", span_length=1)
    assert span.size == random_.size
    assert np.intersect1d(random_, span).size < 200  # 92 expected


def runs_of(num_spans: int, rest: int, span_length: int, eligible: int) -> Counter:
    """Return how many ordered placements of the runs give each set of positions."""
    lengths = [(span_length,) * num_spans]
    if rest:
        lengths = [tuple(rest if i == short else span_length for i in range(num_spans)) for short in range(num_spans)]
    sets: Counter = Counter()
    for run_lengths in lengths:
        free = eligible - sum(run_lengths)
        for slots in itertools.combinations(range(free + num_spans), num_spans):
            covered: list[int] = []
            for span, slot in enumerate(slots):
                start = slot - span + sum(run_lengths[:span])
                covered += range(start, start + run_lengths[span])
            assert len(set(covered)) == len(covered), "runs overlap"
            sets[tuple(covered)] += 1
    return sets


@pytest.mark.parametrize(("length", "ratio", "span_length"), [(11, 0.5, 3), (11, 0.4, 2), (10, 0.3, 5), (9, 0.7, 3)])
def test_every_placement_of_the_spans_is_equally_likely(length, ratio, span_length):
    count = int(length * ratio)
    num_spans, rest = -(-count // span_length), count % span_length
    placements = runs_of(num_spans, rest, span_length, length - 1)
    num_samples = 200 * placements.total()
    case = {
        "seed": 5,
        "dataset_key": 6,
        "length": length,
        "ratio": ratio,
        "strategy": "span",
        "span_length": span_length,
    }
    drawn = (mask_positions(**case, sample_index=sample) for sample in range(num_samples))
    observed = Counter(tuple(positions.tolist()) for positions in drawn)
    assert observed.keys() == placements.keys()
    keys = list(placements)
    expected = [200 * placements[key] for key in keys]
    assert stats.chisquare([observed[key] for key in keys], expected).pvalue > SMALLEST_P


def test_spans_of_the_paper_have_the_exact_count():
    for span_length, num_full, short in ((5, 122, 4), (50, 12, 14)):
        for sample in range(50):
            positions = mask_positions(
                seed=1,
                dataset_key=2,
                sample_index=sample,
                length=4096,
                ratio=0.15,
                strategy="span",
                span_length=span_length,
            )
            assert positions.size == 614 == num_full * span_length + short
            runs = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
            # Runs that touch appear as one: the lengths still add up from full runs and one short run.
            assert sum(run.size % span_length != 0 for run in runs) <= 1
