"""The DALI loader gives the batches of torch's DataLoader, in its order, from any place on."""

import numpy as np
import pytest
import torch
from megatron.training.datasets.data_samplers import MegatronPretrainingSampler
from torch.utils.data import DataLoader

from meap_megatron.errors import UserError

pytest.importorskip("nvidia.dali", reason="nvidia-dali-cuda130 is not installed: 600 MB, an option")

from meap_megatron.datasets.dali import DaliLoader  # noqa: E402


def sampler(*, consumed=0, rank=0, ranks=1):
    return MegatronPretrainingSampler(
        total_samples=42,  # the last two are no whole micro-batch
        consumed_samples=consumed,
        micro_batch_size=4,
        data_parallel_rank=rank,
        data_parallel_size=ranks,
    )


def assert_equal(loader, dataset, batches):
    """Compare field by field with torch's loader, types too; return how many micro-batches there were."""
    expected = list(DataLoader(dataset, batch_sampler=batches))
    found = list(loader)
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        assert mine.keys() == other.keys()
        for name in other:
            assert mine[name].dtype == other[name].dtype and torch.equal(mine[name], other[name]), name
    return len(found)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"create_attention_mask": False},
        {"create_attention_mask": False, "inter_document_masking": True},
        {"reset_attention_mask": True, "reset_position_ids": True, "eod_mask_loss": True},  # Megatron's own path
    ],
)
def test_batches_and_their_order_are_those_of_torchs_loader(tools, changed):
    dataset = tools.build(tools.write(), meap=tools.mask(), **changed)[0]
    batches = sampler()
    assert assert_equal(DaliLoader(dataset, batches, micro_batch_size=4, device_id=None), dataset, batches) == 10


def test_a_blend_reads_the_same_on_the_second_of_two_ranks(tools):
    dataset = tools.build(tools.write("a"), tools.write("b", seed=1), sizes=(48, 20, 0), meap=tools.mask())[0]
    batches = sampler(rank=1, ranks=2)
    assert assert_equal(DaliLoader(dataset, batches, micro_batch_size=4, device_id=None), dataset, batches) == 5


def test_it_goes_on_where_the_consumed_samples_end(tools):
    dataset = tools.build(tools.write(), meap=tools.mask())[0]
    whole = list(DaliLoader(dataset, sampler(), micro_batch_size=4, device_id=None))
    rest = list(DaliLoader(dataset, sampler(consumed=24), micro_batch_size=4, device_id=None))
    assert len(rest) == 4
    assert all(torch.equal(mine["tokens"], all_["tokens"]) for mine, all_ in zip(rest, whole[6:], strict=True))


def test_what_was_handed_out_stays_as_it_was_and_may_be_changed(tools):
    dataset = tools.build(tools.write(), meap=tools.mask())[0]
    loader = DaliLoader(dataset, sampler(), micro_batch_size=4, device_id=None)
    first = next(loader)
    kept = first["tokens"].clone()
    first["loss_mask"].zero_()
    others = [next(loader) for _ in range(9)]
    assert torch.equal(first["tokens"], kept)
    assert all(bool((batch["loss_mask"] == 1).all()) for batch in others)


def test_the_end_stays_the_end(tools):
    dataset = tools.build(tools.write(), meap=tools.mask())[0]
    loader = DaliLoader(dataset, [[0, 1, 2, 3]], micro_batch_size=4, device_id=None)
    next(loader)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loader)
    assert list(DaliLoader(dataset, [], micro_batch_size=4, device_id=None)) == []


def test_a_damaged_index_is_reported_as_everywhere(tools):
    dataset = tools.build(tools.write(), meap=tools.mask())[0]
    dataset.sample_index = np.array(dataset.sample_index)
    dataset.sample_index[9] = (10_000, 0)  # the thread meets it, far from the first batch
    with pytest.raises(UserError, match="the train split of .* cannot be read"):
        list(DaliLoader(dataset, sampler(), micro_batch_size=4, device_id=None))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU; never run")
def test_on_a_gpu_the_batches_arrive_there(tools):
    dataset = tools.build(tools.write(), meap=tools.mask())[0]
    batches = sampler()
    expected = list(DataLoader(dataset, batch_sampler=batches))
    for mine, other in zip(
        DaliLoader(dataset, batches, micro_batch_size=4, device_id=torch.cuda.current_device()), expected, strict=True
    ):
        for name in other:
            assert mine[name].is_cuda and torch.equal(mine[name].cpu(), other[name])
