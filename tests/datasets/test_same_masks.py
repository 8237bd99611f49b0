"""One sample, one mask: whatever reads it, in which order, after what, and from where."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader


def tokens_of(dataset, order=None) -> torch.Tensor:
    """Return int64[num_samples, 32] by index, read in the given order."""
    rows = {index: dataset[index]["tokens"] for index in (order or range(len(dataset)))}
    return torch.stack([rows[index] for index in sorted(rows)])


def test_the_order_of_reading_changes_no_mask(tools):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    forward = tokens_of(train)
    order = list(range(len(train)))
    assert torch.equal(tokens_of(train, order[::-1]), forward)
    assert torch.equal(tokens_of(train, order[::2] + order[1::2]), forward)


@pytest.mark.parametrize("num_workers", [1, 4])
def test_the_number_of_workers_changes_no_mask(tools, num_workers):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    batches = DataLoader(train, batch_size=4, num_workers=num_workers)
    assert torch.equal(torch.cat([batch["tokens"] for batch in batches]), tokens_of(train))


def test_a_resumed_run_sees_the_same_masks(tools):
    prefix = tools.write()
    before = tokens_of(tools.build(prefix, meap=tools.mask())[0])
    assert torch.equal(tokens_of(tools.build(prefix, meap=tools.mask())[0]), before)
    assert not torch.equal(tokens_of(tools.build(prefix, meap=tools.mask(seed=5))[0]), before)


def test_moving_the_data_changes_no_mask(tools):
    prefix = Path(tools.write("here/data"))
    before = tokens_of(tools.build(str(prefix), meap=tools.mask())[0])
    moved = tools.folder / "there"
    shutil.move(prefix.parent, moved)
    shutil.rmtree(tools.folder / "cache")
    assert torch.equal(tokens_of(tools.build(str(moved / "data"), meap=tools.mask())[0]), before)
    renamed = tools.folder / "other"
    for suffix in (".bin", ".idx", ".meap.json"):
        shutil.copy(moved / f"data{suffix}", f"{renamed}{suffix}")
    assert torch.equal(tokens_of(tools.build(str(renamed), meap=tools.mask())[0]), before)


def test_datasets_of_a_blend_do_not_share_positions(tools):
    prefixes = [tools.write("first", seed=1), tools.write("second", seed=2)]
    blend = tools.build(*prefixes, sizes=(80, 10, 0), meap=tools.mask())[0]
    rows: dict[int, list] = {0: [], 1: []}
    for index in range(len(blend)):
        sample = blend[index]
        rows[int(sample["dataset_id"])].append(sample["tokens"] == tools.MASK)
    assert len(rows[0]) > 20 and len(rows[1]) > 20
    first, second = (torch.stack(rows[i][:20]) for i in (0, 1))
    assert (first.sum(dim=1) == 8).all() and (second.sum(dim=1) == 8).all()
    assert not (first == second).all(dim=1).any()


def test_a_blend_masks_each_sample_as_the_dataset_alone(tools):
    prefixes = [tools.write("first", seed=1), tools.write("second", seed=2)]
    blend = tools.build(*prefixes, sizes=(80, 10, 0), meap=tools.mask(), num_dataset_builder_threads=2)[0]
    # Each dataset has its own copy of the configuration: two threads must not exchange content hashes.
    assert len({part.config.content_hash for part in blend.datasets} - {None}) == 2
    for index in range(len(blend)):
        part = blend.datasets[blend.dataset_index[index]]
        assert torch.equal(blend[index]["tokens"], part[int(blend.dataset_sample_index[index])]["tokens"])


def test_samples_do_not_change_each_other(tools):
    """The tokens of a sample are its own: writing into them reaches no later sample and no label."""
    train = tools.build(tools.write(), meap=tools.mask())[0]
    before = {name: value.clone() for name, value in train[3].items()}
    spoiled = train[3]
    spoiled["tokens"].fill_(55)
    assert torch.equal(spoiled["labels"], before["labels"])
    for name, value in train[3].items():
        assert torch.equal(value, before[name])
