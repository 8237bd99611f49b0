"""The index of many conversations is built in blocks: no row depends on their size, and memory stays that of a block."""

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from meap_megatron import _C
from meap_megatron.datasets.sft import packing
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.disk_array import DiskArray
from meap_megatron.errors import RunError


def made_up(num_conversations: int):
    """Return conversations of 3 + 5 to 40 + 1 tokens that exist as roles in memory."""
    answers = np.random.default_rng(1).integers(5, 41, size=num_conversations, dtype=np.int32)
    runs = np.stack([np.full_like(answers, 3), answers, np.ones_like(answers)], axis=1)
    lengths = runs.sum(axis=1, dtype=np.int32)
    roles = np.repeat(np.tile(np.array([0, 1, 2], np.uint8), num_conversations), runs.reshape(-1))
    pointers = np.cumsum(lengths, dtype=np.int64) - lengths
    ids = np.zeros(len(roles), np.uint16)
    return SimpleNamespace(prefix="memory", native=_C.SFTSource(ids, 2 * pointers, roles, pointers, lengths))


def index_of(num_conversations: int, **options):
    arrays, summary = packing.build_index(
        made_up(num_conversations),
        np.arange(num_conversations, dtype=np.int32),
        config=SFTConfig(mask_id=1, min_answer_tokens=20, **options),
        sequence_length=128,
        num_rows=2500,
        order_seed=3,
    )
    return arrays, {name: value for name, value in summary.items() if name != "seconds"}


@pytest.mark.parametrize("options", [{}, {"pack_window": 7}, {"pack": False}, {"shuffle": False, "layout": "concat"}])
@pytest.mark.parametrize("block", [1, 64, 1000])
def test_the_rows_do_not_depend_on_the_block(monkeypatch, options, block):
    at_once, summary = index_of(1000, **options)
    monkeypatch.setattr(packing, "BLOCK", block)
    in_blocks, same_summary = index_of(1000, **options)
    assert summary["num_epochs"] > 1
    assert same_summary == summary
    for name, array in at_once.items():
        np.testing.assert_array_equal(in_blocks[name], array, strict=True)


def test_memory_does_not_grow_with_the_conversations(monkeypatch):
    monkeypatch.setattr(packing, "BLOCK", 2_000)
    peak_of(2_000)  # what is imported at the first call
    assert peak_of(64_000) < 2 * peak_of(8_000)  # 8 if it grew


def peak_of(num_conversations: int) -> int:
    """Return the bytes of NumPy arrays and Python objects at the peak; the conversations themselves are not counted."""
    data, numbers = made_up(num_conversations), np.arange(num_conversations, dtype=np.int32)
    tracemalloc.start()
    try:
        packing.build_index(
            data,
            numbers,
            config=SFTConfig(mask_id=1, pack_window=500),
            sequence_length=128,
            num_rows=None,
            order_seed=3,
        )
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_is_named_with_its_folder(tmp_path):
    column = DiskArray(tmp_path, np.int64)
    column._file = open("/dev/full", "wb")  # noqa: SIM115  the column closes it
    with pytest.raises(RunError, match=f"cannot write {tmp_path}.*free space or choose another folder"):
        column.append(np.arange(100_000))
