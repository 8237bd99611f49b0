"""The index cache is never stale and never half there; data and settings that do not fit are refused with a reason."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from meap_megatron.datasets.sft import packing
from meap_megatron.datasets.sft.data import open_sft
from meap_megatron.datasets.sft.dataset import MEAPSFTDatasetConfig
from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
from meap_megatron.errors import RunError, UserError
from tests.datasets.sft.conftest import alpaca_like, talk


def cached(tools) -> set[str]:
    return {path.name for path in (tools.folder / "cache").iterdir()}


def assert_same_rows(one, two) -> None:
    assert len(one) == len(two)
    for i in range(len(one)):
        mine, theirs = one[i], two[i]
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_second_run_reads_what_the_first_has_packed(tools, monkeypatch):
    prefix = tools.write(alpaca_like(50))
    first = tools.train(prefix, num_rows=20)
    monkeypatch.setattr(packing._C, "sft_pack", None)
    second = tools.train(prefix, num_rows=20)
    assert_same_rows(first, second)
    assert first.summary == second.summary


def test_data_made_again_at_the_same_prefix_is_not_read_through_the_old_index(tools):
    tools.train(tools.write(alpaca_like(50, seed=1)))
    again = tools.train(tools.write(alpaca_like(30, seed=2)))
    fresh = tools.train(tools.write(alpaca_like(30, seed=2), "fresh"))
    assert_same_rows(again, fresh)


@pytest.mark.parametrize("damage", ["truncated", "missing", "other shape", "no summary"])
def test_a_damaged_cache_is_built_again(tools, damage):
    prefix = tools.write(alpaca_like(50))
    before = tools.train(prefix)
    items = next((tools.folder / "cache").glob("*-items.npy"))
    content = items.read_bytes()
    items.unlink()  # a new file: `before` continues to read the old one
    if damage == "truncated":
        items.write_bytes(content[:-1])
    elif damage == "other shape":
        np.save(items, np.zeros(3, dtype=np.uint32))
    elif damage == "no summary":
        items.write_bytes(content)
        next((tools.folder / "cache").glob("*-summary.json")).unlink()
    assert_same_rows(before, tools.train(prefix))


def test_a_cache_that_is_being_written_is_not_read(tools, monkeypatch):
    """The summary is written last: whatever stops the writer before leaves no entry."""
    prefix = tools.write(alpaca_like(50))

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("meap_megatron.atomic.os.replace", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        tools.train(prefix)
    monkeypatch.undo()
    assert cached(tools) == set()
    assert len(tools.train(prefix)) > 0


def test_only_settings_that_change_the_rows_change_the_index(tools):
    prefix = tools.write(alpaca_like(50))
    tools.train(prefix)
    first = cached(tools)
    same = [{"ratio": 0.5}, {"seed": 3}, {"loss_on_copy": "all_answer"}, {"refresh": "per_epoch"}, {"pad_id": 5}]
    for change in same:
        tools.train(prefix, sft=tools.sft(**change))
    assert cached(tools) == first
    other = [{"layout": "ntp"}, {"min_answer_tokens": 3}, {"loss_on_original": "none"}, {"over_long": "drop"}]
    other += [{"pack": False}, {"pack_window": 7}, {"shuffle": False}, {"sampler": "official"}]
    for number, change in enumerate(other, start=2):
        tools.train(prefix, sft=tools.sft(**change))
        assert len(cached(tools)) == number * len(first), change


def test_rank_0_packs_and_the_others_read(tools, monkeypatch):
    prefix = tools.write(alpaca_like(50))
    with monkeypatch.context() as rank_1:
        rank_1.setattr(torch.distributed, "is_initialized", lambda: True)
        rank_1.setattr(torch.distributed, "get_rank", lambda *_: 1)
        rank_1.setattr(torch.distributed, "barrier", lambda *_: None)
        with pytest.raises(RunError, match=r"cache does not hold the index .* set data_cache_path to one that is"):
            tools.train(prefix)
        assert not (tools.folder / "cache").exists()
        rank_1.setattr(torch.distributed, "get_rank", lambda *_: 0)
        first = tools.train(prefix)
        rank_1.setattr(torch.distributed, "get_rank", lambda *_: 1)
        rank_1.setattr(packing._C, "sft_pack", None)
        assert_same_rows(first, tools.train(prefix))


def test_settings_without_rows_or_data_are_refused(tools):
    with pytest.raises(UserError, match="has no sft"):
        MEAPSFTDatasetConfig(random_seed=1, sequence_length=8, blend=(["data"], None), split="1,0,0")
    with pytest.raises(UserError, match="no mock data"):
        MEAPSFTDatasetConfig(random_seed=1, sequence_length=8, sft=tools.sft())


def test_official_masks_follow_seed_and_ratio_through_the_cache(tools):
    prefix = tools.write(alpaca_like(50))
    official = {"sampler": "official", "pack": False, "shuffle": False}
    kinds = [{"seed": 1}, {"seed": 2}, {"seed": 1, "ratio": 0.5}]
    built = [tools.train(prefix, sft=tools.sft(**official, **kind)) for kind in kinds]
    tokens = [torch.stack([dataset[i]["tokens"] for i in range(len(dataset))]) for dataset in built]
    assert len({int((one == tools.MASK).sum()) for one in tokens}) == 2
    assert not torch.equal(tokens[0], tokens[1])


def test_data_and_dataset_travel_to_another_process(tools):
    dataset = tools.train(tools.write(alpaca_like(30)))
    dataset[0]
    assert_same_rows(dataset, pickle.loads(pickle.dumps(dataset)))
    assert len(pickle.dumps(dataset.dataset)) < 1000  # not the content of the maps


def test_a_long_conversation_is_refused_with_the_way_out_or_dropped(tools):
    talks = [talk((0, 3), (1, 5), (2, 1)), talk((0, 3), (1, 30), (2, 1)), talk((0, 3), (1, 13), (2, 1))]
    prefix = tools.write(talks)
    message = r"1 of the 3 conversations of .* have more than the 17 tokens .* longest has 34.* --max-length 17"
    with pytest.raises(UserError, match=message):
        tools.train(prefix, sequence_length=16)
    dropped = tools.train(prefix, sft=tools.sft(over_long="drop"), sequence_length=16)
    assert dropped.summary["num_too_long"] == 1
    assert sorted(dropped.index.items // 4) == [0, 2, 2]


def test_a_pair_that_does_not_fit_stands_alone_and_is_counted(tools):
    talks = [talk((0, 3), (1, 13), (2, 1)), talk((0, 3), (1, 14), (2, 1))]
    concat = tools.train(tools.write(talks), sft=tools.sft(layout="concat"), sequence_length=33)
    assert (concat.summary["num_joined"], concat.summary["num_unjoined"]) == (1, 1)
    assert sorted(concat.index.items.tolist()) == [2, 4]


def test_conversations_that_train_nothing_are_left_out_and_counted(tools):
    talks = [talk((0, 5)), talk((0, 3), (1, 5), (2, 1)), talk((2, 1))]
    dataset = tools.train(tools.write(talks))
    assert (dataset.summary["num_untrained"], dataset.summary["num_originals"]) == (2, 1)
    copies_only = tools.train(dataset.dataset.prefix, sft=tools.sft(loss_on_original="none", min_answer_tokens=4))
    assert copies_only.index.items.tolist() == [5]


def test_a_split_without_anything_to_train_is_refused(tools):
    prefix = tools.write([talk((0, 5))])
    with pytest.raises(UserError, match=r"10 rows are asked for, but none of the 1 conversations"):
        tools.train(prefix, num_rows=10)
    assert len(tools.train(prefix)) == 0


def test_data_that_does_not_fit_the_run_is_refused(tools):
    talks = [talk((0, 3), (1, 5), (2, 1))]
    foreign = DatasetTokenizer(dataclasses.replace(tools.INFO, fingerprint="a" * 64))
    cases = [
        ({}, {"tokenizer": foreign}, "made with tokenizer ffffffffffff, this run uses aaaaaaaaaaaa"),
        ({}, {"sft": tools.sft(mask_id=99)}, r"mask_id is 99, but \[MASK\] of .* is 200"),
        ({}, {"sft": tools.sft(pad_id=201)}, "pad_id is 201, the vocabulary of .* has 201 ids"),
        ({"kind": "text", "sft": None}, {}, "holds 'text' data"),
    ]
    for number, (sidecar, settings, message) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            tools.train(tools.write(talks, f"data{number}", **sidecar), **settings)


def test_roles_of_other_data_are_refused(tools):
    one = tools.write([talk((0, 3), (1, 5), (2, 1)), talk((0, 3), (1, 4), (2, 1))], "one")
    two = tools.write([talk((0, 3), (1, 4), (2, 1)), talk((0, 3), (1, 5), (2, 1))], "two")
    for suffix in (".roles.bin", ".roles.idx"):
        Path(one + suffix).write_bytes(Path(two + suffix).read_bytes())
    with pytest.raises(UserError, match="conversation 0 of .*one has 9 tokens and 8 roles"):
        open_sft(one)
    three = tools.write([talk((0, 17))], "three")
    Path(f"{one}.roles.idx").write_bytes(Path(f"{three}.roles.idx").read_bytes())
    with pytest.raises(UserError, match=r"one\.roles\.idx"):
        open_sft(one)


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".roles.bin", ".roles.idx"])
def test_a_truncated_file_is_refused_before_it_is_read(tools, suffix):
    prefix = tools.write(alpaca_like(20))
    path = Path(prefix + suffix)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"data{suffix.replace('.', chr(92) + '.')}"):
        tools.train(prefix)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask_id": -1}, "mask_id is -1"),
        ({"pad_id": -1}, "pad_id is -1"),
        ({"layout": "rows"}, "layout is 'rows'; it must be one of separate, concat, ntp"),
        ({"loss_on_original": "all"}, "loss_on_original is 'all'"),
        ({"loss_on_copy": "none"}, "loss_on_copy is 'none'"),
        ({"concat_order": "both"}, "concat_order is 'both'"),
        ({"refresh": "step"}, "refresh is 'step'"),
        ({"sampler": "numpy"}, "sampler is 'numpy'"),
        ({"over_long": "truncate"}, "over_long is 'truncate'"),
        ({"ratio": 0.0}, r"ratio is 0.0; it must be in \(0, 1\).*layout 'ntp'"),
        ({"ratio": float("nan")}, "ratio is nan"),
        ({"min_answer_tokens": -1}, "min_answer_tokens is -1"),
        ({"pack_window": 0}, "pack_window is 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"sampler": "official", "refresh": "per_epoch"}, "official code draws its masks once"),
        ({"layout": "ntp", "loss_on_original": "none"}, "nothing would be trained"),
    ],
)
def test_a_wrong_setting_is_named(tools, wrong, message):
    with pytest.raises(UserError, match=message):
        tools.sft(**wrong)


@pytest.mark.parametrize(("mean", "sequence_length"), [(150, 2048), (270, 2048), (150, 4096), (270, 4096)])
def test_rows_are_full_on_lengths_like_those_of_alpaca(tools, mean, sequence_length):
    conversations = alpaca_like(4000, longest=sequence_length, mean=mean)
    average = np.mean([len(ids) for ids, _ in conversations])
    assert mean * 0.6 < average < mean * 1.6
    prefix = tools.write(conversations)
    for seed in (1, 2):
        sft = tools.sft(min_answer_tokens=50)
        summary = tools.train(prefix, sft=sft, sequence_length=sequence_length, random_seed=seed).summary
        assert summary["num_copies"] > 1000
        assert summary["non_padding"] >= 0.98
