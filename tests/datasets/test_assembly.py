"""The native path gives the tensors of `super().__getitem__` and the mask stage, bit for bit, and reads nothing else."""

import gc
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from megatron.core.datasets.utils import Split
from torch.utils.data import DataLoader, default_collate

from meap_megatron.config import MaskConfig
from meap_megatron.datasets import assembly, gpt
from meap_megatron.datasets.assembly import Assembler, MicroBatch, SampleFields
from meap_megatron.datasets.gpt import MEAPGPTDataset
from meap_megatron.errors import UserError
from meap_megatron.masking.corruption import OrdinaryIds

DRAWN = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
EOS, MASK = 2, 50  # the pad id of the dataset is MASK


class Tokenizer:
    """What Megatron asks of a tokenizer, with ids of the test's choice."""

    def __init__(self, eod: int, pad: int) -> None:
        self.eod, self.eos, self.pad, self.vocab_size = eod, eod, pad, 101
        self.unique_identifiers = {"eod": eod, "pad": pad}


def assert_same(mine: dict, theirs: dict) -> None:
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].dtype == theirs[name].dtype, name
        assert mine[name].shape == theirs[name].shape, name
        assert torch.equal(mine[name], theirs[name]), (name, mine[name], theirs[name])


def megatrons_way(dataset: MEAPGPTDataset) -> MEAPGPTDataset:
    """Return the same dataset without its native path."""
    other = pickle.loads(pickle.dumps(dataset))
    other.__dict__["_assembler"] = None
    return other


@st.composite
def cases(draw) -> dict:
    """Draw documents, a configuration of Megatron's and one of masks."""
    strategy = draw(st.sampled_from(["none", "random", "span", "official51"]))
    mask = {"strategy": strategy, "seed": draw(st.integers(0, 2**64 - 1)), "mask_validation": True}
    mask["ratio"] = draw(st.sampled_from([0.01, 0.15, 0.5, 0.99]))
    if strategy == "official51":
        mask["global_batch_size"] = draw(st.integers(1, 5))
    elif strategy != "none":
        mask["protected_ids"] = draw(st.sampled_from([(), (EOS,), (EOS, 3, 4), tuple(range(8))]))
        mask["span_length"] = draw(st.integers(1, 40)) if strategy == "span" else 1
        mask["ratio"] = draw(st.sampled_from([0.01, 0.15, 0.5, 0.99, "0:0.5", "0@0,0.5@0.5"]))
        mask["clean_fraction"] = draw(st.sampled_from([0.0, 0.0, 0.5]))
        mask["skip_first"] = draw(st.sampled_from([0, 0, 2, 40]))
        mask["min_document_tokens"] = draw(st.sampled_from([0, 0, 3, 21]))
        mask["corruption"] = draw(st.sampled_from(["mask", "mask", "random", "mix"]))
        mask["ordinary"] = OrdinaryIds.without(60, [EOS, MASK])
    return {
        "seed": draw(st.integers(0, 2**32 - 1)),
        "dtype": draw(st.sampled_from([np.uint16, np.int32])),
        # Empty documents, short ones, and one longer than any sample.
        "lengths": draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 7, 20, 90]), min_size=1, max_size=25)),
        "num_samples": draw(st.sampled_from([None, None, 12])),
        "split": draw(st.sampled_from([Split.train, Split.valid])),
        "eod": draw(st.sampled_from([EOS, EOS, -1])),
        "pad": draw(st.sampled_from([MASK, MASK, 5, EOS, -1])),  # 5 is a token of the data, EOS becomes -1 in Megatron
        "mask": None if strategy == "none" else mask,
        "config": {
            "sequence_length": draw(st.sampled_from([2, 3, 8, 31, 32])),
            "add_extra_token_to_sequence": draw(st.booleans()),
            "drop_last_partial_validation_sequence": draw(st.booleans()),
            "reset_position_ids": draw(st.booleans()),
            "eod_mask_loss": draw(st.booleans()),
            "inter_document_masking": draw(st.booleans()),
            "create_attention_mask": draw(st.booleans()),
            "mark_changes": draw(st.booleans()),
        },
        "wide": draw(st.booleans()),
    }


def make(folder: Path, case: dict, **changed) -> MEAPGPTDataset | None:
    """Write the data of a case and build its dataset; None if it has not one sample."""
    lengths, config = case["lengths"], case["config"] | changed
    extra = config["add_extra_token_to_sequence"]
    drops = case["split"] == Split.train or config["drop_last_partial_validation_sequence"]
    if sum(lengths) < 2 or sum(lengths) < (config["sequence_length"] + extra if drops else 1 + extra):
        return None
    rng = np.random.default_rng(case["seed"])
    prefix = folder / f"data{len(list(folder.iterdir()))}"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=case["dtype"])
    for length in lengths:
        builder.add_document(rng.integers(0, 8, size=length), [length])
    builder.finalize(f"{prefix}.idx")
    mask = None if case["mask"] is None else MaskConfig(mask_id=MASK, **case["mask"])
    settings = {"reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False} | config
    configuration = gpt.MEAPGPTDatasetConfig(
        random_seed=case["seed"],
        blend=([str(prefix)], None),
        split="1,0,0",
        tokenizer=Tokenizer(case["eod"], case["pad"]),
        path_to_cache=str(folder / "cache"),
        meap=mask,
        **settings,
    )
    data = GPTDataset.build_low_level_dataset(str(prefix), configuration)
    documents = np.arange(len(lengths), dtype=np.int32)
    try:
        dataset = MEAPGPTDataset(data, str(prefix), documents, case["num_samples"], case["split"], configuration)
    except AssertionError:  # Megatron's builder, if the last sample ends in an empty document
        assert 0 in lengths and not drops
        return None
    if case["wide"]:
        dataset.sample_index = dataset.sample_index.astype(np.int64)
        dataset.shuffle_index = dataset.shuffle_index.astype(np.int64)
    return dataset


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(MEAPGPTDataset, "_content_hash", staticmethod(lambda path: path))
    return tmp_path


@settings(DRAWN, max_examples=500)
@given(case=cases())
def test_the_native_path_equals_megatrons_way(folder, case):
    dataset = make(folder, case)
    if dataset is None:
        return
    slow = megatrons_way(dataset)
    assert isinstance(dataset._assembler, Assembler)
    indices = [*range(len(dataset)), *range(-len(dataset), 0)]
    try:
        expected = [slow[index] for index in indices]
    except RuntimeError:  # Megatron's cu_seqlens has no room for the empty parts of a sample
        assert case["config"]["inter_document_masking"]
        with pytest.raises(
            UserError, match="has more documents, empty ones among them, than the sample has positions"
        ):
            dataset.__getitems__(indices)
        return
    for index, theirs in zip(indices, expected, strict=True):
        assert_same(dataset[index], theirs)
        assert_same(dataset[np.int64(index)], theirs)
    assert_same(dataset[None], slow[None])
    batch = dataset.__getitems__(indices)
    assert isinstance(batch, MicroBatch) and len(batch) == len(indices)
    for mine, theirs in zip(batch, expected, strict=True):
        assert_same(mine, theirs)
    assert_same(default_collate(batch), default_collate(expected))


def test_a_sequence_longer_than_every_vector_and_document(folder):
    """Long enough for the SIMD loops, with documents below and above their width."""
    rng = np.random.default_rng(3)
    for dtype in (np.uint16, np.int32):
        lengths = [*rng.integers(0, 80, size=60).tolist(), 30_000, *rng.integers(500, 700, size=20).tolist()]
        config = {"sequence_length": 4096, "add_extra_token_to_sequence": True, "create_attention_mask": False}
        config |= {"drop_last_partial_validation_sequence": False}
        case = {"seed": 1, "dtype": dtype, "lengths": lengths, "num_samples": None, "split": Split.valid, "eod": EOS}
        case |= {"pad": MASK, "wide": False, "mask": {"ratio": 0.15, "mask_validation": True}, "config": config}
        for changed in ({}, {"inter_document_masking": True}, {"reset_position_ids": True, "eod_mask_loss": True}):
            dataset = make(folder, case, **changed)
            slow = megatrons_way(dataset)
            for index in range(len(dataset)):
                assert_same(dataset[index], slow[index])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("strategy", ["random", "span"])
def test_blends_are_the_same_on_both_paths(tools, monkeypatch, masked, strategy):
    prefixes = [tools.write("first", seed=1), tools.write("second", seed=2)]
    mask = tools.mask(strategy=strategy, span_length=3) if masked else None
    mine = tools.build(*prefixes, sizes=(80, 10, 0), meap=mask)
    assert all(isinstance(part._assembler, Assembler) for blend in mine[:2] for part in blend.datasets)
    monkeypatch.setattr(gpt, "assembler", lambda *args, **kwargs: None)
    theirs = tools.build(*prefixes, sizes=(80, 10, 0), meap=mask)
    for split in (0, 1):
        assert len(mine[split]) == len(theirs[split]) >= 10
        for index in range(len(mine[split])):
            one, other = mine[split][index], theirs[split][index]
            assert one.pop("dataset_id") == other.pop("dataset_id")
            assert_same(one, other)


@pytest.mark.parametrize(
    ("settings", "is_native"),
    [
        ({}, True),
        ({"create_attention_mask": False}, True),
        ({"reset_attention_mask": True, "create_attention_mask": False}, True),
        ({"reset_attention_mask": True}, False),
        ({"mmap_bin_files": False}, False),
    ],
)
def test_what_is_left_to_megatron(tools, settings, is_native):
    train = tools.build(tools.write(), meap=tools.mask(), **settings)[0]
    assert (train._assembler is not None) == is_native
    batch = train.__getitems__([3, 4])
    assert isinstance(batch, MicroBatch if is_native else list)
    assert_same(batch[1], train[4])


def test_indices_that_are_opened_late_and_mock_data_are_left_to_megatron(tools):
    from meap_megatron.datasets.provider import build_datasets

    prefix = tools.write()
    before = tools.build(prefix, meap=tools.mask())[0]
    late = tools.build(prefix, meap=tools.mask(), defer_npy_index_mmap=True)[0]
    assert late._assembler is None
    assert_same(late[3], before[3])
    mock = build_datasets(tools.config(blend=None, split=None, meap=tools.mask()), sizes=[10, 10, 10])[0]
    assert mock._assembler is None
    assert len(mock.__getitems__([0, 1])) == 2


def test_a_subclass_keeps_its_own_reading(tools):
    """The native path knows nothing of what a subclass of Megatron's dataset reads, as FIM's does."""

    class Reversed(MEAPGPTDataset):
        def _query_document_sample_shuffle_indices(self, idx):
            text, ids, lengths = super()._query_document_sample_shuffle_indices(idx)
            return text[::-1].copy(), ids, lengths

    base = tools.build(tools.write())[0]
    changed = Reversed(base.dataset, base.dataset_path, base.indices, base.num_samples, base.index_split, base.config)
    assert changed._assembler is None
    assert changed[0]["labels"][-1] == changed._query_document_sample_shuffle_indices(0)[0][-1]


def test_what_is_shared_between_samples_is_megatrons_rule(tools):
    prefix = tools.write()
    plain = tools.build(prefix)[0]
    first, second = plain[0], plain[1]
    assert first["position_ids"] is second["position_ids"]
    assert first["attention_mask"] is second["attention_mask"]
    assert first["labels"].data_ptr() == first["tokens"].data_ptr() + 8  # one buffer
    assert first["loss_mask"].data_ptr() != second["loss_mask"].data_ptr()
    masked = tools.build(prefix, meap=tools.mask())[0][0]
    assert masked["labels"].untyped_storage().data_ptr() != masked["tokens"].untyped_storage().data_ptr()
    for options in ({"eod_mask_loss": True}, {"reset_position_ids": True}):
        own = tools.build(prefix, **options)[0]
        first, second = own[0], own[1]
        for name in ("position_ids", "attention_mask"):
            assert first[name].data_ptr() != second[name].data_ptr()
    segments = tools.build(prefix, inter_document_masking=True)[0]
    assert segments[0]["position_ids"].data_ptr() != segments[1]["position_ids"].data_ptr()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_data_loader_takes_the_batch_path_with_megatrons_sampler(tools, monkeypatch, num_workers):
    from megatron.training.datasets.data_samplers import MegatronPretrainingSampler

    taken = []
    collate_rows = assembly.collate_rows
    monkeypatch.setitem(
        torch.utils.data._utils.collate.default_collate_fn_map,
        SampleFields,
        lambda batch, **kwargs: taken.append(type(batch)) or collate_rows(batch, **kwargs),
    )
    train = tools.build(tools.write(), meap=tools.mask(), create_attention_mask=True)[0]
    sampler = MegatronPretrainingSampler(
        total_samples=len(train), consumed_samples=4, micro_batch_size=3, data_parallel_rank=1, data_parallel_size=2
    )
    batches = list(DataLoader(train, batch_sampler=sampler, num_workers=num_workers, pin_memory=True))
    slow = megatrons_way(train)
    rows = list(sampler)
    assert len(batches) == len(rows) > 3
    for batch, indices in zip(batches, rows, strict=True):
        assert type(batch) is dict
        expected = default_collate([slow[index] for index in indices])
        assert_same(batch, expected)
        assert all(tensor.is_contiguous() for tensor in batch.values())
    if num_workers == 0:
        assert taken == [MicroBatch] * len(rows)


def test_single_rows_of_a_micro_batch_are_collated_too(tools):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    batch = train.__getitems__([0, 1, 2, 3])
    assert_same(default_collate(batch[1:3]), default_collate([train[1], train[2]]))


def test_a_padding_sample_in_a_batch_and_hybrid_context_parallel_get_lists(tools):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    batch = train.__getitems__([0, None])
    assert not batch[1]["loss_mask"].any() and batch[0]["loss_mask"].any()
    train.config.hybrid_context_parallel = True
    assert isinstance(train.__getitems__([0, 1]), list)


def test_threads_read_the_same_samples(tools):
    train = tools.build(tools.write(), sizes=(400, 10, 0), meap=tools.mask(strategy="span", span_length=3))[0]
    expected = [train[index]["tokens"] for index in range(len(train))]
    wrong = []

    def read(start: int) -> None:
        for round_ in range(5):
            order = [(start + 7 * round_ + step) % len(train) for step in range(len(train))]
            for index, row in zip(order, train.__getitems__(order), strict=True):
                if not (
                    torch.equal(row["tokens"], expected[index])
                    and torch.equal(train[index]["tokens"], expected[index])
                ):
                    wrong.append(index)

    threads = [threading.Thread(target=read, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_samples_outlive_their_dataset(tools):
    """Megatron's readers close their maps when they are deleted; the native path must not look into closed ones."""
    train = tools.build(tools.write(), meap=tools.mask())[0]
    native = train._assembler
    expected = {name: tensor.clone() for name, tensor in train[5].items()}
    kept = train[5]
    del train
    gc.collect()
    assert_same(native.sample(5), expected)
    assert_same(kept, expected)


def test_indices_outside_the_dataset_are_index_errors(tools):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    for index in (len(train), -len(train) - 1, 2**40):
        with pytest.raises(IndexError, match=f"sample {index} of {len(train)}"):
            train[index]
        with pytest.raises(IndexError):
            train.__getitems__([0, index])
    assert len(list(train)) == len(train)  # iteration ends


def damage(dataset: MEAPGPTDataset, name: str, change) -> None:
    array = np.array(getattr(dataset, name))
    change(array)
    setattr(dataset, name, array)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("shuffle_index", lambda a: a.fill(10**6), r"entry 0 of the shuffle index is 1000000, but there are \d+ samples"),
        ("sample_index", lambda a: a[:, 0].fill(10**6), r"goes from entry 1000000 to 1000000 of \d+"),
        ("sample_index", lambda a: a[:, 0].fill(-1), "goes from entry -1 to -1"),
        ("sample_index", lambda a: a[:, 1].fill(-5), "has the offsets -5 and -5, outside any document"),
        ("sample_index", lambda a: a[:, 1].fill(10**9), "asks for tokens 1000000000 to .* of document"),
        ("sample_index", lambda a: np.copyto(a, a[::-1].copy()), "goes from entry|asks for tokens|has more than 33 tokens"),
        ("document_index", lambda a: a.fill(10**6), "leads to document 1000000 of 60"),
        ("document_index", lambda a: a.fill(-7), "leads to document -7 of 60"),
        ("sample_index", lambda a: np.copyto(a, np.arange(len(a))[:, None] * np.array([5, 0])), "has more than 33 tokens"),
    ],
)  # fmt: skip
def test_a_damaged_cached_index_is_named(tools, name, change, message):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    damage(train, name, change)
    for read in (lambda: train[0], lambda: train.__getitems__([0]), lambda: train[None]):
        with pytest.raises(UserError, match=rf"train split of .*data cannot be read: .*({message})(.|\n)*meap verify"):
            read()


def test_a_damaged_idx_file_is_named(tools):
    """Pointers that lead outside the .bin: Megatron reads other documents, or fails with NumPy's message."""
    for pointer in (-2, 1, 2**40, 2**62):
        train = tools.build(tools.write(), meap=tools.mask())[0]
        pointers = np.full(60, pointer, dtype=np.int64)
        train.dataset.index.sequence_pointers = pointers
        with pytest.raises(UserError, match=rf"asks for tokens .* at byte {pointer} of"):
            train[0]


def test_arrays_that_do_not_belong_together_are_refused_at_once(tools):
    train = tools.build(tools.write(), meap=tools.mask())[0]
    train.sample_index = train.sample_index[:-3]
    with pytest.raises(UserError, match="the sample index has not one row more than the shuffle index has entries"):
        train[0]
