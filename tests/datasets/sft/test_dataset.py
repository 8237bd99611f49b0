"""MEAPSFTDataset through Megatron's real builder: what a row holds, and what it does not depend on."""

from collections import Counter

import numpy as np
import pytest
import torch

from tests.datasets.sft.conftest import alpaca_like, talk


def segments(row: dict) -> list[dict]:
    """Return the segments of a row, the padding as the last one if there is some."""
    size = len(row["tokens"])
    bounds = row["cu_seqlens"].tolist()
    bounds = bounds[: bounds.index(size) + 1]
    names = ("tokens", "labels", "loss_mask", "position_ids")
    return [
        {name: row[name][start:stop].tolist() for name in names}
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def trained(dataset) -> float:
    return sum(float(dataset[i]["loss_mask"].sum()) for i in range(len(dataset)))


def test_a_row_of_one_short_and_one_long_answer_token_by_token(tools):
    short = talk((0, 3), (1, 2), (2, 1), first=0)
    long = talk((0, 2), (1, 12), (2, 1), first=50)
    dataset = tools.train(tools.write([short, long]), sequence_length=40)
    assert len(dataset) == 1
    row = dataset[0]
    parts = segments(row)
    assert [len(part["tokens"]) for part in parts] == [14, 14, 5, 7]
    original, copy = sorted(parts[:2], key=lambda part: tools.MASK in part["tokens"])
    ids = long[0]
    assert original["tokens"] == ids[:-1]
    assert original["loss_mask"] == [0] + [1] * 13
    masked = [i for i, token in enumerate(copy["tokens"]) if token == tools.MASK]
    assert len(set(masked) | {i + 1 for i in range(13) if copy["loss_mask"][i]}) == 3  # floor(12 * 0.25)
    assert [copy["tokens"][i] for i in range(14) if i not in masked] == [ids[i] for i in range(14) if i not in masked]
    assert all(2 <= i <= 13 for i in masked)
    assert copy["labels"] == original["labels"] == ids[1:]
    assert sum(copy["loss_mask"]) == 3
    assert parts[2] == {
        "tokens": short[0][:-1],
        "labels": short[0][1:],
        "loss_mask": [0, 0, 1, 1, 1],
        "position_ids": [0, 1, 2, 3, 4],
    }
    assert parts[3] == {"tokens": [0] * 7, "labels": [0] * 7, "loss_mask": [0] * 7, "position_ids": list(range(7))}
    assert row["cu_seqlens"].tolist() == [0, 14, 28, 33] + [40] * 37
    assert (row["max_seqlen"].item(), row["max_seqlen"].dtype, row["max_seqlen"].ndim) == (14, torch.int32, 0)
    kinds = {name: field.dtype for name, field in row.items()}
    assert kinds == {
        "tokens": torch.int64,
        "labels": torch.int64,
        "loss_mask": torch.float32,
        "position_ids": torch.int64,
        "cu_seqlens": torch.int32,
        "max_seqlen": torch.int32,
        "num_segments": torch.int32,
    }
    assert row["num_segments"].item() == 3, "padding is none of them"


def test_the_end_token_is_trained_when_padding_has_the_same_id(tools):
    conversations = [talk((0, 3), (1, 4), (2, 1))]
    dataset = tools.train(tools.write(conversations), sft=tools.sft(pad_id=tools.EOS), sequence_length=16)
    row = dataset[0]
    assert row["labels"].tolist() == conversations[0][0][1:] + [tools.EOS] * 9
    assert row["loss_mask"].tolist() == [0, 0, 1, 1, 1, 1, 1] + [0] * 9


@pytest.mark.parametrize("layout", ["separate", "concat", "ntp"])
def test_an_epoch_holds_every_conversation_once(tools, layout):
    conversations = alpaca_like(200)
    dataset = tools.train(tools.write(conversations), sft=tools.sft(layout=layout), num_rows=100, sequence_length=256)
    index = dataset.index
    for epoch in range(len(index.epochs) - 1):
        rows = range(index.epochs[epoch], index.epochs[epoch + 1])
        items = Counter(int(item) for row in rows for item in index.row(row)[0])
        assert set(items.values()) == {1}
        originals = [item // 4 for item in items if item % 4 != 1]
        assert sorted(originals) == list(range(200))
        copies = [item // 4 for item in items if item % 4 in (1, 2)]
        expected = [i for i, (_, roles) in enumerate(conversations) if roles.count(1) > 10]
        assert sorted(copies) == ([] if layout == "ntp" else expected)


def test_epochs_are_the_same_however_many_follow(tools):
    prefix = tools.write(alpaca_like(100))
    one = tools.train(prefix)
    three = tools.train(prefix, num_rows=3 * len(one) - 2)
    assert len(three) > 2 * len(one)
    for i in range(len(one)):
        for name, field in one[i].items():
            assert torch.equal(field, three[i][name])
    assert any(not torch.equal(one[i]["tokens"], three[len(one) + i]["tokens"]) for i in range(len(one)))


def test_long_segments_do_not_come_first_in_an_epoch(tools):
    """Packing fills rows from the longest segment down; read in that order, an epoch would be a curriculum."""
    dataset = tools.train(tools.write(alpaca_like(400)))
    longest = [int(dataset[i]["cu_seqlens"][1]) for i in range(len(dataset))]
    first, second = longest[: len(longest) // 2], longest[len(longest) // 2 :]
    assert abs(np.mean(first) - np.mean(second)) < 0.25 * np.mean(longest)
    in_order = tools.train(dataset.dataset.prefix, sft=tools.sft(shuffle=False))
    sizes = [int(in_order[i]["cu_seqlens"][1]) for i in range(len(in_order))]
    assert sizes == sorted(sizes, reverse=True)


def copies(dataset, first: int, stop: int) -> dict[tuple, list]:
    """Return labels -> tokens of the masked copies in some rows."""
    found = {}
    for i in range(first, stop):
        for part in segments(dataset[i]):
            if 200 in part["tokens"]:
                found[tuple(part["labels"])] = part["tokens"]
    return found


@pytest.mark.parametrize("refresh", ["static", "per_epoch"])
def test_masks_are_static_or_new_in_each_epoch(tools, refresh):
    dataset = tools.train(tools.write(alpaca_like(60)), sft=tools.sft(refresh=refresh), num_rows=60)
    starts = dataset.index.epochs
    first, second = copies(dataset, starts[0], starts[1]), copies(dataset, starts[1], starts[2])
    assert first.keys() == second.keys() and len(first) > 20
    same = sum(first[key] == second[key] for key in first)
    assert same == len(first) if refresh == "static" else same < len(first) / 4


def test_rows_do_not_depend_on_order_workers_or_folder(tools):
    conversations = alpaca_like(60)
    here = tools.train(tools.write(conversations))
    there = tools.train(tools.write(conversations, "else/where"), path_to_cache=str(tools.folder / "other"))
    forward = [here[i] for i in range(len(here))]
    backward = [there[i] for i in reversed(range(len(there)))][::-1]
    loader = torch.utils.data.DataLoader(here, batch_size=2, num_workers=2, drop_last=False)
    batched = [
        {name: field[i] for name, field in batch.items()} for batch in loader for i in range(len(batch["tokens"]))
    ]
    for one, two, three in zip(forward, backward, batched, strict=True):
        assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)


def test_seeds_order_and_mask_independently(tools):
    prefix = tools.write(alpaca_like(60))
    plain, reordered = tools.train(prefix), tools.train(prefix, random_seed=8)
    assert not torch.equal(plain[0]["tokens"], reordered[0]["tokens"])
    assert copies(plain, 0, len(plain)) == copies(reordered, 0, len(reordered))
    remasked = tools.train(prefix, sft=tools.sft(seed=5))
    assert copies(plain, 0, len(plain)) != copies(remasked, 0, len(remasked))
    for i in range(len(plain)):
        assert torch.equal(plain[i]["labels"], remasked[i]["labels"])


def test_splits_share_no_conversation_and_validation_reads_originals(tools):
    conversations = [talk((0, 2), (1, 20), (2, 1), first=9 * i) for i in range(20)]
    train, valid, test = tools.build(tools.write(conversations), split="80,20,0")
    assert test is None
    assert set(train.index.items // 4) == set(range(16))
    assert set(valid.index.items // 4) == set(range(16, 20))
    assert (train.summary["num_copies"], valid.summary["num_copies"]) == (16, 0)
    masked = tools.build(tools.write(conversations), sft=tools.sft(mask_validation=True), split="80,20,0")[1]
    assert masked.summary["num_copies"] == 4


def test_a_padding_sample_has_no_loss_and_bounds_are_checked(tools):
    dataset = tools.train(tools.write(alpaca_like(30)))
    assert dataset[0]["loss_mask"].any()
    assert not dataset[None]["loss_mask"].any()
    assert torch.equal(dataset[-1]["tokens"], dataset[len(dataset) - 1]["tokens"])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_blend_draws_from_both(tools):
    prefixes = [tools.write(alpaca_like(40, seed=i), f"data{i}") for i in range(2)]
    train = tools.build(*prefixes, sizes=(20, 0, 0))[0]
    assert len(train) == 20
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=4)))
    assert batch["cu_seqlens"].shape == (4, 129)


def test_megatron_flattens_a_batch_of_rows(tools):
    from megatron.core.utils import flatten_batch_for_packed_sequences

    dataset = tools.train(tools.write(alpaca_like(40)))
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=2)))
    flat = flatten_batch_for_packed_sequences(batch)
    bounds = flat["cu_seqlens"][0].tolist()
    assert flat["tokens"].shape == (1, 256)
    assert (bounds[0], bounds[-1]) == (0, 256) and 128 in bounds and bounds == sorted(set(bounds))
    assert flat["max_seqlen"].item() == np.diff(bounds).max()
