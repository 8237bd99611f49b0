"""Blocks are those of pre-training, masks those of the project's sampler, and neither depends on the machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.errors import UserError
from meap_megatron.evaluation.attention.sequences import (
    Stream,
    choose_blocks,
    open_stream,
    positions_to_mask,
    source_of,
)
from meap_megatron.indexed.pair import open_pair
from meap_megatron.masking import reference
from tests.support.corpus import write_jsonl


@pytest.fixture
def prefix(tmp_path: Path, tokenizer_folder: Path) -> str:
    write_jsonl(tmp_path / "text.jsonl", ("one two three", "four five", "six"))
    output = str(tmp_path / "data")
    preprocess(PreprocessConfig(inputs=[str(tmp_path / "text.jsonl")], output=output, tokenizer=str(tokenizer_folder)))
    return output


def test_blocks_follow_one_another_with_one_token_between_their_inputs() -> None:
    stream = Stream(tokens=np.arange(11, dtype=np.uint16), source={})
    assert stream.num_blocks(4) == 2
    assert [stream.block(index, length=4).tolist() for index in range(2)] == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert stream.block(0, length=4).dtype == np.int64


def test_an_indexed_dataset_is_read_as_one_stream(prefix: str, tokenizer_folder: Path) -> None:
    from meap_megatron.indexed.sidecar import check_prefix

    sidecar = check_prefix(prefix)
    stream = open_stream(prefix, tokenizer=None, add_bos=False, fingerprint=sidecar.tokenizer.fingerprint)
    assert np.array_equal(stream.tokens, np.concatenate([open_pair(prefix)[index] for index in range(3)]))
    assert stream.source == {
        "kind": "indexed dataset",
        "sha256": sidecar.content_hash,
        "num_tokens": len(stream.tokens),
    }
    with pytest.raises(UserError, match="its ids mean other tokens"):
        open_stream(prefix, tokenizer=None, add_bos=False, fingerprint="0123")


@pytest.mark.parametrize("add_bos", [False, True])
def test_text_becomes_the_stream_that_preprocessing_would_make(
    tmp_path: Path, tokenizer_folder: Path, add_bos: bool
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(("one two", "three")):
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    stream = open_stream(str(tmp_path / "texts"), tokenizer=tokenizer, add_bos=add_bos, fingerprint=None)
    bos = "<s>" if add_bos else ""
    assert tokenizer.decode(stream.tokens) == f"{bos}one two</s>{bos}three</s>"
    alone = open_stream(str(tmp_path / "texts" / "1.txt"), tokenizer=tokenizer, add_bos=False, fingerprint=None)
    assert tokenizer.decode(alone.tokens) == "three</s>"


def test_data_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither an indexed dataset"):
        source_of(str(tmp_path / "absent"))
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match="holds no text"):
        source_of(str(tmp_path / "empty.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not UTF-8"):
        source_of(str(tmp_path / "binary.txt"))


def test_blocks_are_drawn_without_repetition_and_the_same_again() -> None:
    chosen = choose_blocks(100, count=30, length=8, seed=0)
    assert (
        len(set(chosen.tolist())) == 30 and chosen.tolist() == sorted(chosen) and 0 <= chosen[0] and chosen[-1] < 100
    )
    assert np.array_equal(choose_blocks(100, count=30, length=8, seed=0), chosen)
    assert not np.array_equal(choose_blocks(100, count=30, length=8, seed=1), chosen)
    assert choose_blocks(3, count=3, length=8, seed=0).tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="holds 2 blocks of 1,024 tokens, 500 were asked for"):
        choose_blocks(2, count=500, length=1024, seed=0)


def mask(**changes: Any) -> list[np.ndarray]:
    given = {"indices": range(200), "source_hash": "ab", "length": 64, "ratio": 0.15, "seed": 3, "mask_first": False}
    return positions_to_mask(**{**given, **changes})


def test_masks_are_those_of_the_projects_sampler_and_never_hold_the_sink() -> None:
    import hashlib

    found = mask()
    key = int.from_bytes(hashlib.sha256(b"ab:attention:64").digest()[:8], "little")
    for index, positions in enumerate(found[:5]):
        expected = reference.mask_positions(
            seed=3, dataset_key=key, sample_index=index, length=64, ratio=0.15, eligible=np.arange(1, 63)
        )
        assert np.array_equal(positions, expected)
    assert {len(positions) for positions in found} == {int(63 * 0.15)}
    assert set(np.concatenate(found).tolist()) == set(range(1, 63))
    assert set(np.concatenate(mask(mask_first=True)).tolist()) == set(range(63))
    assert not np.array_equal(mask(source_hash="cd")[0], found[0])
    assert [len(mask(length=length, indices=[0])[0]) for length in (1024, 4096)] == [153, 614]
