"""Pairs: each training sample as two rows, clean and masked, for the order of reading of a run without pairs."""

import pytest
import torch

from meap_megatron.datasets.provider import build_datasets, index_key


def test_rows_are_the_sample_clean_and_then_masked(tools):
    prefix = tools.write()
    mask = tools.mask()
    pairs = build_datasets(tools.config(prefix, meap=mask, mark_changes=True, pairs=True), sizes=[41, 20, None])
    clean = tools.build(prefix, sizes=(21, 20, None))
    masked = tools.build(prefix, meap=mask, sizes=(21, 20, None), mark_changes=True)
    assert len(pairs[0]) == 2 * len(clean[0])
    for sample in range(len(clean[0])):
        plain, hidden = pairs[0][2 * sample], pairs[0][2 * sample + 1]
        for name in plain:
            assert torch.equal(plain[name], clean[0][sample][name]), name
        for name in ("tokens", "labels"):
            assert torch.equal(hidden[name], masked[0][sample][name]), name
        assert torch.equal(hidden["loss_mask"], masked[0][sample]["loss_mask"] + 8)
        assert torch.equal(plain["labels"], hidden["labels"])
    assert torch.equal(pairs[1][3]["tokens"], clean[1][3]["tokens"]), "validation has no pairs"
    assert set(pairs[0][None]["loss_mask"].tolist()) == {0.0}
    with pytest.raises(IndexError, match="row"):
        pairs[0][len(pairs[0])]


def test_a_run_with_pairs_shares_the_index_of_one_with_half_the_samples(tools):
    prefix = tools.write()
    plain, paired = tools.config(prefix), tools.config(prefix, pairs=True)
    assert index_key(plain, sizes=[21, 20, None]) == index_key(paired, sizes=[42, 20, None])
    assert index_key(plain, sizes=[21, 20, None]) != index_key(paired, sizes=[44, 20, None])
