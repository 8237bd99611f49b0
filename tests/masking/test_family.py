"""The family of masked inputs: C++ against the specification on drawn settings, shares and schedules, and refusals."""

import random
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from meap_megatron import _C
from meap_megatron.config import MaskConfig
from meap_megatron.datasets.mask_stage import MaskStage, mark_changes
from meap_megatron.errors import UserError
from meap_megatron.masking.corruption import Corruption, OrdinaryIds
from meap_megatron.masking.ratio import MaskRatio

ORDINARY = OrdinaryIds.without(20, [0, 3, 4, 19, 7])


def both(stage, tokens, *, sample_index, num_real, barred=()):
    """Return (tokens, marks) of the specification after checking that C++ gives the same bits."""
    documents = np.full(tokens.size, 10**6)
    for start, stop in barred:
        documents[start:stop] = 1
    changed, positions = stage.apply(tokens, sample_index=sample_index, num_real=num_real, document_tokens=documents)
    marks = mark_changes(np.zeros(tokens.size, dtype=np.float32), positions)
    native, native_marks = _C.Corruptor(stage).apply(tokens, sample_index, num_real, list(barred))
    case = f"{stage}, sample {sample_index}, {num_real} of {tokens.tolist()}, barred {barred}"
    assert native.tolist() == changed.tolist(), case
    assert native_marks.tolist() == marks.tolist(), case
    return changed, marks


RATIOS = ["0.15", "0:0.5", "0@0,0.3@0.5", "0.3@0,0.3@0.5,0.1@0.5", "0.1:0.2@0,0.5:0.9@1", "0.999", "0.0"]
CORRUPTIONS = ["mask", "random", "mix", "mix:0,0.5,0.5", "mix:0.5,0.5,0", "mix:0,0,1"]


def test_the_native_family_equals_the_specification_in_ten_thousand_drawn_cases():
    for number in range(10_000):
        draw = random.Random(number)
        length = draw.randint(2, 48)
        cuts = sorted(draw.sample(range(length + 1), draw.choice([0, 0, 1, 2, min(4, length)])))
        barred = list(zip(cuts[::2], cuts[1::2], strict=False))
        config = MaskConfig(
            mask_id=99,
            ratio=draw.choice([draw.choice(RATIOS), repr(draw.random())]),
            clean_fraction=draw.choice([0.0, 0.0, 0.3, 0.999]),
            strategy=draw.choice(["random", "span"]),
            span_length=draw.randint(1, 9),
            skip_first=draw.choice([0, 0, 3, 60]),
            min_document_tokens=2 if barred else 0,
            corruption=draw.choice(CORRUPTIONS),
            ordinary=ORDINARY,
            protected_ids=draw.choice([(), (), (5,), (1, 2, 4, 6)]),
            seed=draw.getrandbits(64),
        )
        tokens = np.array(draw.choices(range(20), k=length), dtype=np.int64)
        num_real = draw.choice([length, draw.randint(0, length)])
        stage = MaskStage(mask=config, dataset_key=draw.getrandbits(64), num_samples=100)
        sample_index = draw.choice([draw.randrange(100), draw.getrandbits(40)])
        changed, marks = both(stage, tokens, sample_index=sample_index, num_real=num_real, barred=barred)
        is_changed = (marks.astype(int) & 2) > 0
        assert (changed[~is_changed] == tokens[~is_changed]).all()
        assert not is_changed[max(0, num_real - 1) :].any(), "the last real position and padding are left alone"
        assert not is_changed[: config.skip_first].any()
        assert not any(is_changed[start:stop].any() for start, stop in barred)
        assert not np.isin(changed[is_changed], ORDINARY.excluded).any(), "no special id is drawn"
        assert not np.isin(tokens[is_changed], config.protected_ids).any()


def stage_of(num_samples=1000, **fields):
    return MaskStage(mask=MaskConfig(mask_id=99, **fields), dataset_key=5, num_samples=num_samples)


def changes(stage, *, num_samples=1000, length=64):
    """Return the number of changed positions of each sample."""
    native = _C.Corruptor(stage)
    tokens = np.full(length, 1, dtype=np.int64)
    return np.array([int((native.apply(tokens, i, length, [])[1] % 4 >= 2).sum()) for i in range(num_samples)])


def test_the_plain_setting_masks_what_it_always_has():
    tokens = np.arange(100, 116, dtype=np.int64)
    stage = MaskStage(mask=MaskConfig(mask_id=99, ratio=0.33), dataset_key=0x0123456789ABCDEF)
    changed, marks = both(stage, tokens, sample_index=7, num_real=16)
    assert np.flatnonzero(changed == 99).tolist() == [0, 2, 5, 11, 12]
    assert marks.tolist() == [2, 4, 2, 0, 4, 2, 0, 0, 0, 0, 4, 6, 2, 0, 0, 0]


def test_a_range_draws_the_ratio_of_each_sample_uniformly():
    shares = changes(stage_of(ratio="0:0.5"), num_samples=4000, length=1001) / 1000
    assert stats.kstest(shares, "uniform", args=(0, 0.5)).pvalue > 1e-3
    assert shares.max() <= 0.5


def test_a_schedule_follows_the_progress_of_training():
    counts = changes(stage_of(ratio="0@0, 0.2@0.1, 0.2@0.9, 0@1"), length=1001)
    assert counts[0] == 0
    assert counts[50] == int(1001 * 0.1)
    assert (counts[100:901] == int(1001 * 0.2)).all()
    assert counts[950] == pytest.approx(100, abs=1)
    assert changes(stage_of(ratio="0.3@0,0.3@0.5,0.1@0.5"))[[499, 500]].tolist() == [int(64 * 0.3), int(64 * 0.1)]


def test_clean_samples_are_as_many_as_asked_for_and_stay_clean():
    stage = stage_of(ratio=0.5, clean_fraction=0.25)
    clean = changes(stage, num_samples=4000) == 0
    assert stats.binomtest(int(clean.sum()), 4000, 0.25).pvalue > 1e-3
    assert (clean == (changes(stage, num_samples=4000) == 0)).all()


def test_random_tokens_are_uniform_over_the_ordinary_ids():
    native = _C.Corruptor(stage_of(ratio=0.9, corruption="random", ordinary=ORDINARY))
    tokens = np.full(200, 50, dtype=np.int64)
    drawn = Counter(t for i in range(200) for t in native.apply(tokens, i, 200, [])[0].tolist() if t != 50)
    assert set(drawn) == set(range(20)) - {0, 3, 4, 7, 19}
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-3


def test_a_mix_has_its_shares_and_kept_tokens_are_not_changed():
    native = _C.Corruptor(stage_of(ratio=0.5, corruption="mix:0.6,0.3,0.1", ordinary=ORDINARY))
    tokens = np.full(1001, 50, dtype=np.int64)
    pairs = [native.apply(tokens, i, 1001, []) for i in range(40)]
    masked = sum(int((changed == 99).sum()) for changed, _ in pairs)
    marked = sum(int((marks % 4 >= 2).sum()) for _, marks in pairs)
    chosen = 40 * int(1001 * 0.5)
    assert stats.binomtest(masked, chosen, 0.6).pvalue > 1e-3
    assert stats.binomtest(marked, chosen, 0.9).pvalue > 1e-3
    assert all(((changed != 50) == (marks % 4 >= 2)).all() for changed, marks in pairs)


def test_the_same_positions_are_chosen_whatever_replaces_them():
    tokens = np.full(64, 50, dtype=np.int64)
    with_mask, with_random = (
        both(stage_of(ratio=0.3, corruption=c, ordinary=ORDINARY), tokens, sample_index=3, num_real=64)
        for c in ("mask", "random")
    )
    assert with_mask[1].tolist() == with_random[1].tolist()


def test_ordinary_ids_skip_the_excluded_ones():
    assert [OrdinaryIds.without(6, [3, 0, 3, 77]).nth(i) for i in range(4)] == [1, 2, 4, 5]
    with pytest.raises(UserError, match="all 3 ids of the vocabulary are special"):
        OrdinaryIds.without(3, range(3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": "half"}, "ratio is 'half'; it is a number"),
        ({"ratio": "0.5:0.1"}, "the range 0.5:0.1 is empty"),
        ({"ratio": "0:1"}, "it must be in \\[0, 1\\)"),
        ({"ratio": "0.1@0, 0.2"}, "each of several points needs its @PROGRESS"),
        ({"ratio": "0.1@0.5, 0.2@0.1"}, "progress 0.1 follows 0.5"),
        ({"ratio": "0.1@2"}, "progress 2 is outside"),
        ({"clean_fraction": 1.0}, "clean_fraction is 1.0"),
        ({"corruption": "noise"}, "corruption is 'noise'; it is mask, random, mix"),
        ({"corruption": "mix:0.5,0.5"}, "three shares"),
        ({"corruption": "mix:0.5,0.6,0.1"}, "add up to 1"),
        ({"corruption": "random"}, "give the ids of which tokens are drawn"),
        ({"skip_first": -1}, "skip_first is -1"),
        ({"strategy": "official51", "global_batch_size": 4, "ratio": "0:0.5"}, "one ratio for all samples"),
        ({"strategy": "official51", "global_batch_size": 4, "skip_first": 2}, "has no such setting"),
    ],
)
def test_a_wrong_setting_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        MaskConfig(mask_id=9, **fields)


def test_settings_are_read_as_they_are_written():
    assert MaskRatio.parse(0.15).constant == 0.15
    assert MaskRatio.parse("0:0.5").constant is None
    assert MaskRatio.parse("0.15@0").follows_training is False
    assert Corruption.parse("mix") == Corruption(0.8, 0.1, 0.1)
    assert Corruption.parse("mix").random_below == round(0.9 * 2**32)
