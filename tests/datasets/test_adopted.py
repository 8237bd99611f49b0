"""Data of Megatron's own tool, empty documents among it, is adopted and gives Megatron's samples through its builder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from meap_megatron.corpus.verify import Checks, adopt, verify
from tests.support.corpus import write_word_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(97))]
    names = {"bos_token": None, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    return write_word_tokenizer(tmp_path / "t", words, **names)


def write(prefix: Path, *, dtype: type = np.uint16) -> None:
    """Documents of random ids that end with EOS; empty ones first, in between, twice in a row and last, of both kinds."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    rng = np.random.default_rng(0)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    builder.add_document([], [])  # what preprocess_data.py writes for {"text": ""}
    for number in range(60):
        ids = [*rng.integers(3, 100, size=rng.integers(3, 39)).tolist(), 2]
        builder.add_document(ids, [len(ids)])
        if number % 20 == 7:
            builder.add_document([], [])
            builder.add_document([], [0])
    builder.add_document([], [0])
    builder.add_document([], [])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_data_with_empty_documents_is_adopted_and_trained_on(
    tools, tmp_path: Path, tokenizer: Path, dtype: type
) -> None:
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
    from meap_megatron.indexed.sidecar import read_sidecar

    write(tmp_path / "data", dtype=dtype)
    checks = Checks()
    sidecar = adopt(tmp_path / "data", tokenizer=str(tokenizer), check=checks)
    assert (sidecar.num_documents, sidecar.add_bos, sidecar.add_eos) == (69, False, True)
    assert all(check.passed for check in checks)
    # One verdict: what was adopted is found sound.
    assert [check for check in verify(tmp_path / "data") if not check.passed] == []

    info = read_sidecar(tmp_path / "data").tokenizer
    prefix, settings = str(tmp_path / "data"), {"tokenizer": DatasetTokenizer(info)}
    for split, (ours, theirs) in enumerate(
        zip(tools.build(prefix, **settings), tools.build(prefix, plain=True, **settings), strict=True)
    ):
        if ours is None:
            assert theirs is None
            continue
        assert len(ours) == len(theirs) > 10
        for index in range(len(ours)):
            for field, value in theirs[index].items():
                assert torch.equal(ours[index][field], value), (split, index, field)
    masked = tools.build(prefix, meap=tools.mask(mask_id=info.mask_id), **settings)[0]
    assert all(int((masked[i]["tokens"] == info.mask_id).sum()) == 8 for i in range(len(masked)))


def test_empty_documents_are_counted_and_their_neighbours_borders_seen(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path / "data")
    adopt(tmp_path / "data", tokenizer=str(tokenizer))
    found = {check.name: check for check in verify(tmp_path / "data")}
    assert found["document index"].detail == "69 documents, 5 of them empty"
    assert found["end tokens"].detail == "all there"
    tokens = np.fromfile(f"{tmp_path}/data.bin", np.uint16)
    before_empty = [int(i) for i in np.flatnonzero(tokens == 2)][
        7
    ]  # the EOS of document 7, which an empty one follows
    tokens[before_empty] = 5
    tokens.tofile(f"{tmp_path}/data.bin")
    changed = {check.name: check for check in verify(tmp_path / "data")}["end tokens"]
    assert not changed.passed
    assert changed.detail == "1 lack EOS, first document 7"
