from pathlib import Path

import numpy as np
import pytest

from meap_megatron.corpus.merge import merge, order_shards
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.verify import adopt, verify
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix
from tests.corpus.corpus_samples import config, documents, names, sample_texts, write_jsonl


def make(folder: Path, name: str, texts: list[str], tokenizer: Path, **options: object) -> str:
    preprocess(config(write_jsonl(folder / f"{name}.jsonl", texts), folder / name, tokenizer, **options))
    return str(folder / name)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_merged_shards_have_the_bytes_of_the_unsharded_run(tmp_path: Path, bpe_tokenizer: Path, count: int) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", sample_texts(80))
    preprocess(config(source, tmp_path / "whole", bpe_tokenizer, shard_bytes=2_000, workers=1))
    for index in reversed(range(count)):
        preprocess(config(source, tmp_path / "x", bpe_tokenizer, shard=(index, count), shard_bytes=2_000, workers=1))
    # As the shell gives them: by name, so that 10 comes before 2, and all files of each.
    merge(tmp_path / "merged", sorted(map(str, tmp_path.glob("x.shard-*"))))
    for suffix in (".bin", ".idx"):
        assert Path(f"{tmp_path}/merged{suffix}").read_bytes() == Path(f"{tmp_path}/whole{suffix}").read_bytes()
    assert check_prefix(tmp_path / "merged").content_hash == check_prefix(tmp_path / "whole").content_hash
    assert all(check.passed for check in verify(tmp_path / "merged"))


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shards \[1\] of 3 .* are missing"):
        order_shards(["c4.shard-2-of-3", "c4.shard-0-of-3"])
    assert order_shards(["b", "a.shard-0-of-2", "a"]) == ["b", "a.shard-0-of-2", "a"]


def test_merge_is_concatenation_in_the_order_given(tmp_path: Path, word_tokenizer: Path) -> None:
    prefixes = [make(tmp_path, name, texts, word_tokenizer) for name, texts in (("b", ["a", "b b"]), ("a", ["c"]))]
    sidecar = merge(tmp_path / "out", [*prefixes, prefixes[0] + ".bin"])
    assert documents(tmp_path / "out") == [[1, 3, 2], [1, 4, 4, 2], [1, 5, 2]]
    assert (sidecar.num_documents, sidecar.num_tokens, sidecar.tokenizer.folder) == (3, 10, "out.tokenizer")


def test_documents_of_several_sequences_stay_documents(tmp_path: Path, word_tokenizer: Path) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    for name in ("x", "y"):
        builder = IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=np.uint16)
        builder.add_document(torch.tensor([3, 4, 5]), [2, 1])
        builder.add_document(torch.tensor([6]), [1])
        builder.finalize(str(tmp_path / f"{name}.idx"))
        adopt(tmp_path / name, tokenizer=str(word_tokenizer))
    merge(tmp_path / "out", [str(tmp_path / "x"), str(tmp_path / "y")])
    merged = IndexedDataset(str(tmp_path / "out"))
    assert merged.document_indices.tolist() == [0, 2, 3, 5, 6]
    assert [row.tolist() for row in merged] == [[3, 4], [5], [6], [3, 4], [5], [6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_bos": False}, "add_bos is False"),
        ({"add_eos": False}, "add_eos is False"),
        ({"mask_token": "[X]"}, "tokenizer fingerprint"),
    ],
)
def test_datasets_that_differ_are_not_merged(
    tmp_path: Path, word_tokenizer: Path, options: dict, message: str
) -> None:
    prefixes = [make(tmp_path, "one", ["a"], word_tokenizer), make(tmp_path, "two", ["a"], word_tokenizer, **options)]
    with pytest.raises(UserError, match=message):
        merge(tmp_path / "out", prefixes)
    assert not [name for name in names(tmp_path) if "out" in name]


def test_a_damaged_input_or_an_existing_output_is_refused(tmp_path: Path, word_tokenizer: Path) -> None:
    one, two = make(tmp_path, "one", ["a"], word_tokenizer), make(tmp_path, "two", ["b"], word_tokenizer)
    with pytest.raises(UserError, match=r"one\.bin exists already"):
        merge(one, [two])
    with pytest.raises(UserError, match="both an input and the output"):
        merge(one, [one, two], overwrite=True)
    Path(f"{two}.bin").write_bytes(b"\1")
    with pytest.raises(UserError, match="truncated"):
        merge(tmp_path / "out", [one, two])
    assert not [name for name in names(tmp_path) if "out" in name]
