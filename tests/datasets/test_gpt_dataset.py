"""MEAPGPTDataset through Megatron's real builder: what is masked, and what never changes."""

import hashlib
import itertools

import numpy as np
import pytest
import torch

from meap_megatron.datasets.provider import build_datasets
from meap_megatron.indexed.sidecar import read_sidecar
from meap_megatron.masking import mask_positions, num_masked

BOOLEANS = ["reset_position_ids", "reset_attention_mask", "eod_mask_loss"]
OPTIONS = [dict(zip(BOOLEANS, values, strict=True)) for values in itertools.product([False, True], repeat=3)] + [
    {"inter_document_masking": True},
    {"inter_document_masking": True, "eod_mask_loss": True},
    {"create_attention_mask": False},
    {"drop_last_partial_validation_sequence": False},
    {"drop_last_partial_validation_sequence": False, "inter_document_masking": True},
    {"add_extra_token_to_sequence": False},
    {"add_extra_token_to_sequence": False, "drop_last_partial_validation_sequence": False},
    {"mmap_bin_files": False},
]


def assert_same(mine: dict, theirs: dict, *, but: tuple[str, ...] = ()) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        if name not in but:
            assert mine[name].dtype == theirs[name].dtype, name
            assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
@pytest.mark.parametrize("ratio", [None, 0.0, 0.25])
def test_everything_but_the_masked_inputs_equals_megatron(tools, options, ratio):
    """One dataset is read twice, because Megatron shares cached tensors between samples."""
    prefix = tools.write()
    sizes = (40, None, None) if "drop_last_partial_validation_sequence" in options else (40, 20, None)
    weightless = {"sizes": sizes, **options}
    theirs = tools.build(prefix, plain=True, **weightless)
    meap = None if ratio is None else tools.mask(ratio=ratio, mask_validation=True)
    mine = tools.build(prefix, meap=meap, **weightless)
    for my_split, their_split in zip(mine[:2], theirs[:2], strict=True):
        assert len(my_split) == len(their_split) > 5
        for _ in range(2):
            for index in range(len(their_split)):
                assert_same(my_split[index], their_split[index], but=("tokens",) if ratio else ())
                if ratio:
                    masked = my_split[index]["tokens"] == tools.MASK
                    assert masked.any()
                    kept = their_split[index]["tokens"][~masked]
                    assert torch.equal(my_split[index]["tokens"][~masked], kept)
        assert_same(my_split[None], their_split[None])
        assert not my_split[None]["loss_mask"].any()


def test_labels_are_those_of_the_unmasked_stream(tools):
    """tokens and labels of Megatron are views of one buffer: masking in place would put [MASK] into the labels."""
    train = tools.build(tools.write(), meap=tools.mask())[0]
    for sample in (train[i] for i in range(len(train))):
        assert not (sample["labels"] == tools.MASK).any()
        seen = sample["tokens"][1:] != tools.MASK
        assert torch.equal(sample["tokens"][1:][seen], sample["labels"][:-1][seen])


@pytest.mark.parametrize("ratio", [0.01, 0.15, 0.5])
@pytest.mark.parametrize(
    "strategy", [{}, {"strategy": "span", "span_length": 3}, {"strategy": "span", "span_length": 99}]
)
def test_the_exact_count_is_masked_and_never_the_last_input(tools, ratio, strategy):
    train = tools.build(tools.write(), meap=tools.mask(ratio=ratio, **strategy))[0]
    masks = tools.masks(train)
    assert (masks.sum(dim=1) == num_masked(length=32, ratio=ratio)).all()
    assert not masks[:, -1].any()
    assert len({tuple(row.tolist()) for row in masks}) > 10


def test_the_positions_are_those_of_the_masking_package(tools):
    """Written out, so that the key of a sample cannot change unnoticed: earlier runs could not be resumed."""
    prefix = tools.write()
    train, valid, _ = tools.build(prefix, meap=tools.mask(seed=99, mask_validation=True))
    for dataset, split in ((train, "train"), (valid, "valid")):
        digest = hashlib.sha256(f"{read_sidecar(prefix).content_hash}:{split}".encode()).digest()
        key = int.from_bytes(digest[:8], "little")
        for index in (0, 3, len(dataset) - 1):
            expected = mask_positions(seed=99, dataset_key=key, sample_index=index, length=32, ratio=0.25)
            assert np.array_equal(np.flatnonzero(dataset[index]["tokens"] == tools.MASK), expected)
        assert torch.equal(dataset[-1]["tokens"], dataset[len(dataset) - 1]["tokens"])


def test_validation_is_masked_only_on_request(tools):
    prefix = tools.write()
    train, valid, _ = tools.build(prefix, meap=tools.mask())
    assert tools.masks(train).any()
    assert not tools.masks(valid).any()
    _, masked_valid, _ = tools.build(prefix, meap=tools.mask(mask_validation=True))
    assert (tools.masks(masked_valid).sum(dim=1) == 8).all()
    assert not torch.equal(tools.masks(masked_valid)[:10], tools.masks(train)[:10])


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"protected_ids": (1,)},
        {"strategy": "span", "span_length": 40},
        {"strategy": "span", "span_length": 9, "protected_ids": (1,)},
        {"strategy": "official51", "global_batch_size": 4},
    ],
)
def test_padding_is_never_masked(tools, extra, mask):
    """The last valid sample is short: it is masked like a sample of its own length, by position and not by id."""
    settings = {
        "sizes": (40, None, None),
        "drop_last_partial_validation_sequence": False,
        "add_extra_token_to_sequence": extra,
    }
    num_checked = 0
    for num_documents in range(40, 52):
        prefix = tools.write(f"data{num_documents}", num_documents=num_documents)
        valid = tools.build(prefix, meap=tools.mask(ratio=0.5, mask_validation=True, **mask), **settings)[1]
        # With reset_position_ids, which changes no loss, Megatron does not cache (and spoil) the loss mask.
        plain = tools.build(prefix, plain=True, reset_position_ids=True, **settings)[1]
        for index in range(len(valid)):
            mine = valid[index]["tokens"]
            # Labels without loss are padding, and so are the inputs above them.
            num_real = int(plain[index]["loss_mask"].sum()) + (not extra)
            masked = mine == tools.MASK
            assert not masked[max(0, num_real - 1) :].any()
            if "protected_ids" not in mask and mask.get("strategy") != "official51":
                assert masked.sum() == (num_masked(length=num_real, ratio=0.5) if num_real >= 2 else 0)
            num_checked += 1 < num_real < 32
    assert num_checked >= 5


def test_a_padded_sample_read_first_costs_no_other_sample_its_loss(tools):
    """Megatron 0.19 writes the padding of the sample read first into the loss mask that all others are copied from."""
    settings = {"sizes": (40, None, None), "drop_last_partial_validation_sequence": False}
    valid = tools.build(tools.write(), meap=tools.mask(), **settings)[1]
    last = int(np.flatnonzero(valid.shuffle_index == len(valid) - 1)[0])
    assert 0 < valid[last]["loss_mask"].sum() < 32
    assert all((valid[index]["loss_mask"].sum() == 32) == (index != last) for index in range(len(valid)))


def test_protected_tokens_are_looked_up_before_masking(tools):
    prefix = tools.write()
    mask = tools.mask(ratio=0.5, protected_ids=(tools.BOS, tools.EOS, 0))
    train = tools.build(prefix, meap=mask)[0]
    plain = tools.build(prefix, plain=True)[0]
    num_protected = 0
    for index in range(len(train)):
        mine, theirs = train[index]["tokens"], plain[index]["tokens"]
        protected = torch.isin(theirs, torch.tensor([0, 1, 2]))
        num_protected += int(protected.sum())
        assert torch.equal(mine[protected], theirs[protected])
        num_eligible = int((~protected[:-1]).sum())
        assert (mine == tools.MASK).sum() == num_masked(length=num_eligible + 1, ratio=0.5)
    assert num_protected > 50


def test_official51_masks_follow_the_optimizer_step(tools):
    mask = tools.mask(strategy="official51", ratio=0.15, global_batch_size=4)
    train = tools.build(tools.write(), sizes=(260, 10, None), meap=mask)[0]
    for index in range(0, len(train)):
        expected = mask_positions(
            seed=0, dataset_key=0, sample_index=0, length=32, ratio=0.15, strategy="official51", step=index // 4
        )
        assert np.array_equal(np.flatnonzero(train[index]["tokens"] == tools.MASK), expected)
    masks = tools.masks(train)
    assert torch.equal(masks[0], masks[3])
    assert torch.equal(masks[0], masks[51 * 4])
    assert not torch.equal(masks[3], masks[4])


def test_mock_data_is_masked(tools):
    config = tools.config(blend=None, split=None, meap=tools.mask())
    train = build_datasets(config, sizes=[10, 10, 10])[0]
    # Mock ids run through the whole vocabulary, the mask id included.
    assert all(7 <= (train[i]["tokens"] == tools.MASK).sum() <= 9 for i in range(10))
