"""Megatron's index cache is never stale, and data that does not fit is refused before it is read."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from meap_megatron.datasets.provider import build_datasets
from meap_megatron.errors import UserError


def tokens_of(dataset) -> torch.Tensor:
    return torch.stack([dataset[index]["tokens"] for index in range(len(dataset))])


def cached(tools) -> set[str]:
    return {path.name for path in (tools.folder / "cache").iterdir()}


@pytest.mark.parametrize("in_blend", [False, True])
def test_data_made_again_at_the_same_prefix_is_not_read_through_the_old_index(tools, in_blend):
    """With Megatron's own key the old index is found: it points beyond the new documents, or at the wrong ones."""
    others = [tools.write("other", seed=9)] if in_blend else []
    settings = {"sizes": (80, 10, 0), "meap": tools.mask()}
    prefix = tools.write("data", seed=1, num_documents=60)
    before = tokens_of(tools.build(prefix, *others, **settings)[0])
    old = cached(tools)

    tools.write("data", seed=2, num_documents=30)
    again = tokens_of(tools.build(prefix, *others, **settings)[0])
    assert cached(tools) > old
    assert any("Blended" in name for name in cached(tools) - old) == in_blend

    elsewhere = tools.write("elsewhere/data", seed=2, num_documents=30)
    fresh = tools.build(elsewhere, *others, **settings, path_to_cache=str(tools.folder / "fresh"))[0]
    assert torch.equal(again, tokens_of(fresh))
    assert not torch.equal(again[: len(before)], before[: len(again)])


def test_indices_are_shared_by_all_masks_and_by_ntp(tools):
    prefix = tools.write()
    tools.build(prefix, meap=None)
    first = cached(tools)
    for mask in (tools.mask(), tools.mask(ratio=0.5), tools.mask(seed=3), tools.mask(strategy="span", span_length=5)):
        tools.build(prefix, meap=mask)
    assert cached(tools) == first


@pytest.mark.parametrize("option", ["add_extra_token_to_sequence", "drop_last_partial_validation_sequence"])
def test_options_that_change_the_samples_change_the_index(tools, option):
    prefix = tools.write()
    tools.build(prefix, sizes=(40, None, None))
    changed = tools.build(prefix, sizes=(40, None, None), **{option: False})
    fresh = tools.build(prefix, sizes=(40, None, None), path_to_cache=str(tools.folder / "fresh"), **{option: False})
    for mine, theirs in zip(changed[:2], fresh[:2], strict=True):
        assert torch.equal(tokens_of(mine), tokens_of(theirs))


def test_the_index_cache_lives_beside_the_data_by_default(tools):
    prefix = tools.write()
    train = tools.build(prefix, path_to_cache=None)[0]
    assert len(train) >= 40
    assert list(Path(prefix, "cache", "MEAPGPTDataset_indices").glob("*-train-sample_index.npy"))


def test_a_prefix_without_sidecar_says_how_to_make_one(tools):
    prefix = tools.write()
    Path(f"{prefix}.meap.json").unlink()
    with pytest.raises(UserError, match=r"meap\.json does not exist: .*meap verify .* --write-sidecar"):
        tools.build(prefix, meap=tools.mask())


def test_a_truncated_file_is_refused_before_it_is_opened(tools):
    prefix = tools.write()
    path = Path(f"{prefix}.bin")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"data\.bin has .* bytes, its sidecar says"):
        tools.build(prefix, meap=tools.mask())
    assert not (tools.folder / "cache").exists()


def other_tokenizer(tools, **fields):
    return dataclasses.replace(tools.INFO, **fields)


def test_data_that_does_not_fit_the_run_is_refused(tools):
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer

    foreign = DatasetTokenizer(other_tokenizer(tools, fingerprint="a" * 64))
    nameless = DatasetTokenizer(other_tokenizer(tools, vocab_size=50))
    cases = [
        ({}, {"tokenizer": foreign}, "made with tokenizer ffffffffffff, this run uses aaaaaaaaaaaa"),
        ({}, {"tokenizer": nameless}, "ids up to 100, the vocabulary of this run has 50 rows"),
        ({}, {"meap": tools.mask(mask_id=99)}, r"mask_id is 99, but \[MASK\] of .* is 100"),
        ({"add_eos": False}, {"reset_position_ids": True}, "reset_position_ids is set, but .* EOS"),
        ({"tokenizer": other_tokenizer(tools, eos_id=None)}, {"eod_mask_loss": True}, "eod_mask_loss is set"),
    ]
    for number, (sidecar, settings, message) in enumerate(cases):
        prefix = tools.write(f"data{number}", **sidecar)
        with pytest.raises(UserError, match=message):
            tools.build(prefix, **settings)


def test_fine_tuning_data_is_not_read_as_plain_text(tools):
    from meap_megatron.datasets.gpt import check_matches
    from meap_megatron.indexed.sidecar import read_sidecar

    sidecar = dataclasses.replace(read_sidecar(tools.write("data")), kind="sft")
    with pytest.raises(UserError, match="holds 'sft' data"):
        check_matches(sidecar, "data", SimpleNamespace(meap=None))


def test_official51_refuses_a_blend(tools):
    prefixes = [tools.write("first", seed=1), tools.write("second", seed=2)]
    mask = tools.mask(strategy="official51", global_batch_size=4)
    with pytest.raises(UserError, match="'official51' with a blend of 2 datasets"):
        tools.build(*prefixes, sizes=(80, 10, 0), meap=mask)


def test_all_data_of_a_blend_is_checked_before_any_is_built(tools):
    """Else rank 0 would fail inside the builder while the others wait at its barrier."""
    prefixes = [tools.write("first"), tools.write("second", tokenizer=other_tokenizer(tools, fingerprint="a" * 64))]
    with pytest.raises(UserError, match="second was made with tokenizer aaaaaaaaaaaa"):
        build_datasets(tools.config(*prefixes), sizes=[80, 10, 0])
    assert not (tools.folder / "cache").exists()


def test_build_datasets_gives_what_the_builder_gives(tools):
    prefix = tools.write()
    mine = build_datasets(tools.config(prefix, meap=tools.mask()), sizes=[40, 20, None])
    theirs = tools.build(prefix, meap=tools.mask())
    assert mine[2] is theirs[2] is None
    for split in (0, 1):
        assert torch.equal(tokens_of(mine[split]), tokens_of(theirs[split]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask_id": -1}, "mask_id is -1"),
        ({"ratio": 1.0}, "ratio is 1.0"),
        ({"strategy": "words"}, "strategy is 'words'; it must be one of random, span, official51"),
        ({"span_length": 0}, "span_length is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"protected_ids": (1, -2)}, "protected_ids is"),
        ({"strategy": "official51"}, "global_batch_size is None"),
        ({"strategy": "official51", "global_batch_size": 4, "protected_ids": (2,)}, "'official51' protects no token"),
    ],
)
def test_a_wrong_setting_is_named(tools, wrong, message):
    with pytest.raises(UserError, match=message):
        tools.mask(**wrong)


def test_a_split_without_a_document_is_refused_instead_of_looping_for_ever(tmp_path: Path) -> None:
    from megatron.core.datasets.utils import Split

    from meap_megatron.datasets.gpt import check_not_empty

    dataset = SimpleNamespace(sequence_lengths=np.array([5, 7], dtype=np.int32))
    config = SimpleNamespace(split="98,2,0")
    check_not_empty(dataset, "p", np.array([0]), Split.train, config)
    with pytest.raises(UserError, match="the valid split of p is empty: 2 documents, split 98,2,0"):
        check_not_empty(dataset, "p", np.array([], dtype=np.int32), Split.valid, config)
