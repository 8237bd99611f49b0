"""The C++ equals the specification bit for bit, and both keep what must be kept, on any conversations."""

import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meap_megatron import _C
from meap_megatron.datasets.sft import reference
from meap_megatron.datasets.sft.answer_masks import CUT, answers, masked_positions
from meap_megatron.datasets.sft.data import Conversations
from meap_megatron.datasets.sft.packing import find_items
from meap_megatron.masking.corruption import OrdinaryIds, replacements
from meap_megatron.masking.philox import REPLACE_STREAM, mask_key, word_stream
from tests.datasets.sft.conftest import MASK, Tools

SEQUENCE_LENGTH = 24
EXAMPLES = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

runs = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 1, 1, 2, 3, CUT, CUT + 4, 255]), st.integers(1, 14)), min_size=1, max_size=6
)


@st.composite
def conversations(draw):
    """1 to 3 * SEQUENCE_LENGTH tokens in runs of any roles; ids are unique, so that a row tells where each is from."""
    found, next_id = [], 300
    for parts in draw(st.lists(runs, min_size=1, max_size=12)):
        roles = [role for role, length in parts for _ in range(length)][: 3 * SEQUENCE_LENGTH]
        found.append((list(range(next_id, next_id + len(roles))), roles))
        next_id += len(roles)
    return found


options = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(["separate", "concat", "ntp"]),
        "loss_on_original": st.sampled_from(["answer+end", "none"]),
        "loss_on_copy": st.sampled_from(["masked", "all_answer", "answer+end"]),
        "concat_order": st.sampled_from(["orig_first", "mask_first"]),
        "refresh": st.sampled_from(["static", "per_epoch"]),
        "sampler": st.sampled_from(["philox", "official"]),
        "min_answer_tokens": st.integers(0, 8),
        "ratio": st.sampled_from([0.1, 0.25, 0.9]),
        "seed": st.integers(0, 2**64 - 1),
        "pack": st.booleans(),
        "pack_window": st.sampled_from([1, 3, 100]),
        "shuffle": st.booleans(),
    }
).filter(
    lambda o: (
        not (o["sampler"] == "official" and o["refresh"] == "per_epoch")
        and not (o["layout"] == "ntp" and o["loss_on_original"] == "none")
    )
)


def specified_positions(dataset, epoch: int) -> reference.Positions:
    """Return the masks of one epoch by the specification."""
    sft, index = dataset.sft, dataset.index

    def official(conversation: int):
        start, stop = index.mask_offsets[conversation : conversation + 2]
        return index.mask_positions[start:stop].astype(np.int64)

    def philox(conversation: int):
        return masked_positions(
            dataset.dataset.roles[conversation],
            min_answer_tokens=sft.min_answer_tokens,
            ratio=sft.ratio,
            seed=sft.seed,
            dataset_key=dataset.dataset_key,
            conversation=conversation,
            epoch=epoch if sft.refresh == "per_epoch" else 0,
        )

    return official if sft.sampler == "official" else philox


def specified_ids(dataset, epoch: int) -> reference.Ids:
    """Return what takes the place of masked tokens in one epoch, by the specification."""
    sft = dataset.sft
    key = mask_key(sft.seed, dataset.dataset_key)
    epoch = epoch if sft.refresh == "per_epoch" else 0
    return lambda conversation, count: replacements(
        word_stream(key, REPLACE_STREAM, conversation + (epoch << 32)),
        count,
        corruption=sft.shares,
        mask_id=sft.mask_id,
        ordinary=sft.ordinary,
    )


@EXAMPLES
@given(
    data=conversations(),
    chosen=options,
    dtype=st.sampled_from([np.uint16, np.int32]),
    corruption=st.sampled_from(["mask", "random", "mix"]),
    mark=st.booleans(),
)
def test_rows_equal_the_specification(data, chosen, dtype, corruption, mark):
    with tempfile.TemporaryDirectory() as folder:
        tools = Tools(folder=Path(folder))
        ordinary = OrdinaryIds.without(201, [0, 1, 2, 200])
        sft = tools.sft(over_long="drop", corruption=corruption, ordinary=ordinary, **chosen)
        prefix = tools.write(data, dtype=dtype)
        shape = {"sft": sft, "sequence_length": SEQUENCE_LENGTH, "mark_changes": mark}
        one_epoch = tools.train(prefix, **shape)
        check_against_the_specification(one_epoch, sft)
        if len(one_epoch):
            check_against_the_specification(tools.train(prefix, num_rows=2 * len(one_epoch) + 1, **shape), sft)


def check_against_the_specification(dataset, sft) -> None:
    everything = np.arange(len(dataset.dataset), dtype=np.int32)
    mine = find_items(dataset.dataset, everything, config=sft, sequence_length=SEQUENCE_LENGTH)
    spec = reference.find_items(dataset.dataset, everything, config=sft, sequence_length=SEQUENCE_LENGTH)
    for one, two in zip(mine, spec, strict=True):
        np.testing.assert_array_equal(one, two, strict=isinstance(two, np.ndarray))
    for i in range(len(dataset)):
        items, epoch = dataset.index.row(i)
        row = reference.make_row(
            dataset.dataset,
            items,
            config=sft,
            sequence_length=SEQUENCE_LENGTH,
            positions=specified_positions(dataset, epoch),
            ids_of=specified_ids(dataset, epoch),
            mark=dataset.config.mark_changes,
        )
        for name, field in dataset[i].items():
            is_number = name in ("max_seqlen", "num_segments")
            np.testing.assert_array_equal(field.numpy(), getattr(row, name), strict=not is_number)


@EXAMPLES
@given(data=conversations(), chosen=options)
def test_an_epoch_trains_what_the_data_asks_for_and_nothing_twice(data, chosen):
    """Counted from the data, without the specification. Ids are unique, and the first token is prompt."""
    data = [(ids, [0, *roles[1:]]) for ids, roles in data]
    with tempfile.TemporaryDirectory() as folder:
        tools = Tools(folder=Path(folder))
        sft = tools.sft(over_long="drop", **chosen)
        dataset = tools.train(tools.write(data), sft=sft, sequence_length=SEQUENCE_LENGTH)
        originals, copies = Counter(), Counter()
        for i in range(len(dataset)):
            count_trained(dataset, i, data, originals, copies)

    fitting = [talk for talk in data if 2 <= len(talk[0]) <= SEQUENCE_LENGTH + 1]
    assert dataset.summary["num_too_long"] == sum(len(ids) > SEQUENCE_LENGTH + 1 for ids, _ in data)
    is_trained = sft.loss_on_original != "none"
    assert originals == Counter(
        token for ids, roles in fitting for token, role in zip(ids, roles, strict=True) if role and is_trained
    )
    num_copied = 0
    for ids, roles in fitting:
        if sft.layout == "ntp" or (sft.layout == "concat" and 2 * len(ids) - 1 > SEQUENCE_LENGTH):
            continue
        runs = [(role, len(list(run))) for role, run in groupby(roles)]
        after = [role for role, _ in runs[1:]] + [0]
        masked = [
            length
            for (role, length), next_role in zip(runs, after, strict=True)
            if role == 1 and max(length, next_role - CUT) > sft.min_answer_tokens
        ]
        if sft.loss_on_copy == "masked":
            num_copied += sum(max(1, int(length * sft.ratio)) for length in masked)
        elif masked:
            trained = (1, 3) if sft.loss_on_copy == "all_answer" else range(1, 256)
            num_copied += sum(length for role, length in runs if role in trained)
    assert copies.total() == num_copied
    assert set(copies.values()) <= {1}


def count_trained(dataset, i: int, data, originals: Counter, copies: Counter) -> None:
    """Add the trained tokens of one row, and check the bounds of its segments and the place of its masks."""
    sft, row = dataset.sft, dataset[i]
    start = 0
    for number, item in enumerate(dataset.index.row(i)[0].tolist()):
        ids, roles = data[item // 4]
        halves = {0: [originals], 1: [copies], 2: [originals, copies]}[item % 4]
        if sft.concat_order == "mask_first":
            halves = halves[::-1]
        size = len(ids) * len(halves) - 1
        assert row["cu_seqlens"][number : number + 2].tolist() == [start, start + size]
        part = slice(start, start + size)
        assert row["position_ids"][part].tolist() == list(range(size))
        assert row["labels"][part].tolist() == (ids * len(halves))[1:]
        tokens = row["tokens"][part].tolist()
        for p, (token, real) in enumerate(zip(tokens, (ids * len(halves))[:-1], strict=True)):
            is_masked = token == MASK
            assert is_masked or token == real
            if is_masked:
                assert halves[p // len(ids)] is copies and roles[p % len(ids)] == 1
        for p, weight in enumerate(row["loss_mask"][part].tolist(), start=1):
            if weight:
                halves[p // len(ids)][ids[p % len(ids)]] += 1
        start += size
    assert not row["loss_mask"][start:].any()
    assert row["position_ids"][start:].tolist() == list(range(SEQUENCE_LENGTH - start))
    assert set(row["cu_seqlens"][number + 2 :].tolist()) == {SEQUENCE_LENGTH}


lengths = st.lists(st.integers(1, 40), max_size=80)


@EXAMPLES
@given(lengths=lengths, capacity=st.sampled_from([40, 63, 64, 65, 200, 5000]), window=st.sampled_from([1, 2, 7, 1000]))
def test_packing_equals_the_specification(lengths, capacity, window):
    lengths = np.array(lengths, dtype=np.int32)
    for mine, theirs in zip(
        _C.sft_pack(lengths, capacity, window),
        reference.pack(lengths, capacity=capacity, window=window),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs, strict=True)


def test_packing_places_the_segments_of_the_docstring():
    offsets, members = _C.sft_pack(np.array([3, 6, 4, 7, 2], dtype=np.int32), 10, 5)
    assert (offsets.tolist(), members.tolist()) == ([0, 2, 4, 5], [3, 0, 1, 2, 4])
    # Two windows share no row.
    offsets, members = _C.sft_pack(np.array([3, 6, 4, 7, 2], dtype=np.int32), 10, 2)
    assert (offsets.tolist(), members.tolist()) == ([0, 2, 3, 4, 5], [1, 0, 3, 2, 4])


@pytest.mark.parametrize(("capacity", "spaces"), [(5000, [1, 63, 64, 65, 4095, 4096, 4097, 5000])])
def test_packing_finds_spaces_across_words(capacity, spaces):
    """Best fit looks for the next larger space in two levels of words: each border must be crossed rightly."""
    for space in spaces:
        for wanted in (1, space // 2 + 1, space):
            filler = capacity - space
            lengths = np.array([n for n in (filler, wanted) if n], dtype=np.int32)
            mine = _C.sft_pack(lengths, capacity, 10)
            assert [part.tolist() for part in mine] == [
                part.tolist() for part in reference.pack(lengths, capacity=capacity, window=10)
            ]


def test_a_length_that_fits_no_row_is_refused():
    for wrong in (0, 11):
        with pytest.raises(ValueError, match="not in 1..capacity"):
            _C.sft_pack(np.array([3, wrong], dtype=np.int32), 10, 5)


def numbers(line: str) -> list[int]:
    return [99 if word == "M" else int(word) for word in line.split() if word != "|"]


def test_the_rows_drawn_in_the_readme(tools):
    talks = [
        ([1, 11, 12, 13, 14, 15, 16, 2], [0, 0, 0, 1, 1, 1, 1, 2]),
        ([1, 17, 18, 2], [0, 0, 1, 2]),
    ]
    data = Conversations(
        ids=[np.array(ids, dtype=np.int32) for ids, _ in talks], roles=[np.array(r, dtype=np.uint8) for _, r in talks]
    )
    row = reference.make_row(
        data,
        np.array([0, 1, 4], dtype=np.uint32),
        config=tools.sft(mask_id=99),
        sequence_length=20,
        positions=lambda conversation: np.array([4, 6]),
    )
    assert row.tokens.tolist() == numbers("1 11 12 13 14 15 16 |  1 11 12 13  M 15  M |  1 17 18 |  0  0  0")
    assert row.labels.tolist() == numbers("11 12 13 14 15 16  2 | 11 12 13 14 15 16  2 | 17 18  2 |  0  0  0")
    assert row.loss_mask.tolist() == numbers("0  0  1  1  1  1  1 |  0  0  0  1  0  1  0 |  0  1  1 |  0  0  0")
    assert row.position_ids.tolist() == numbers("0 1 2 3 4 5 6 | 0 1 2 3 4 5 6 | 0 1 2 | 0 1 2")
    assert row.cu_seqlens.tolist() == [0, 7, 14, 17] + [20] * 17
    assert row.max_seqlen == 7
    pair = reference.make_row(
        data,
        np.array([2], dtype=np.uint32),
        config=tools.sft(mask_id=99, layout="concat"),
        sequence_length=15,
        positions=lambda conversation: np.array([4, 6]),
    )
    assert pair.tokens.tolist() == numbers("1 11 12 13 14 15 16  2  1 11 12 13  M 15  M")
    assert pair.labels.tolist() == numbers("11 12 13 14 15 16  2  1 11 12 13 14 15 16  2")
    assert pair.loss_mask.tolist() == numbers("0  0  1  1  1  1  1  0  0  0  0  1  0  1  0")


def test_answers_of_a_conversation():
    roles = np.array([0, 0, 1, 1, 1, 2, 0, 3, 2, 1, 1, CUT + 60], dtype=np.uint8)
    assert [tuple(answer) for answer in answers(roles)] == [
        (0, 2, 5, 3, True),
        (1, 7, 8, 1, False),
        (2, 9, 11, 60, True),
    ]


def test_an_answer_keeps_its_mask_whatever_stands_before_it():
    """Each answer has its own stream of random words, so editing one answer leaves the masks of the others alone."""
    settings = {"min_answer_tokens": 10, "ratio": 0.3, "seed": 3, "dataset_key": 4, "conversation": 5, "epoch": 0}
    short = np.array([0] * 3 + [1] * 12 + [2, 0] + [1] * 30 + [2], dtype=np.uint8)
    long = np.array([0] * 3 + [1] * 50 + [2, 0] + [1] * 30 + [2], dtype=np.uint8)
    one, two = masked_positions(short, **settings), masked_positions(long, **settings)
    assert (one[one >= 17] - 17).tolist() == (two[two >= 55] - 55).tolist()
    assert len(one[one >= 17]) == 9


def test_an_index_of_other_data_is_refused_instead_of_read(tools):
    prefix = tools.write([([1, 5, 6, 2], [0, 1, 1, 2])])
    dataset = tools.train(prefix)
    rows = dataset._make_rows()
    with pytest.raises(IndexError, match="conversation 1 of 1"):
        rows.row(np.array([4], dtype=np.uint32), 0)
    with pytest.raises(IndexError, match="do not fit"):
        rows.row(np.zeros(100, dtype=np.uint32), 0)
