import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from meap_megatron.corpus import scan
from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.verify import adopt, verify
from meap_megatron.errors import UserError
from meap_megatron.indexed import pair
from meap_megatron.indexed.sidecar import check_prefix, read_sidecar
from tests.corpus.corpus_samples import config, names, write_jsonl

TEXTS = ["a b c", "d", "b b b b", "c d"]  # tokens 1 a b c 2 | 1 d 2 | 1 b b b b 2 | 1 c d 2


@pytest.fixture
def prefix(tmp_path: Path, word_tokenizer: Path) -> Path:
    preprocess(config(write_jsonl(tmp_path / "in.jsonl", TEXTS), tmp_path / "out", word_tokenizer))
    return tmp_path / "out"


@pytest.fixture(params=[1, 3, 2**20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 1 and 3 tokens put every boundary between every two tokens."""
    monkeypatch.setattr(scan, "CHUNK", request.param)
    monkeypatch.setattr("meap_megatron.corpus.verify.BLOCK", request.param)
    monkeypatch.setattr(pair, "BLOCK", request.param)
    return request.param


def findings(prefix: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify(prefix) if not check.passed}


def change_token(prefix: Path, position: int, token: int) -> None:
    tokens = np.fromfile(f"{prefix}.bin", np.uint16)
    tokens[position] = token
    tokens.tofile(f"{prefix}.bin")


def test_a_sound_dataset_passes_every_check(prefix: Path, chunk: int) -> None:
    checks = verify(prefix)
    assert [check.name for check in checks if not check.passed] == []
    assert len(checks) == 14


@pytest.mark.parametrize(
    ("position", "token", "found"),
    [
        (2, 8, {"ids": "1 ids outside 0..7, first 8 at token 2 (document 0)"}),
        (17, 60_000, {"ids": "1 ids outside 0..7, first 60000 at token 17 (document 3)"}),
        (6, 7, {"mask id": "7 occurs 1 times, first at token 6 (document 1); no text gives this id"}),
        (5, 3, {"start tokens": "1 lack BOS, first document 1"}),
        (9, 1, {"doubled BOS": "1 open with BOS BOS, first document 2"}),
        (4, 3, {"end tokens": "1 lack EOS, first document 0"}),
        (13, 3, {"end tokens": "1 lack EOS, first document 2"}),
        (17, 3, {"end tokens": "1 lack EOS, first document 3"}),
        (10, 3, {}),
    ],
)
def test_a_changed_token_is_found_for_what_it_is(
    prefix: Path, chunk: int, position: int, token: int, found: dict[str, str]
) -> None:
    change_token(prefix, position, token)
    result = findings(prefix)
    assert result.pop("content hash").startswith("is ")
    result.pop("end tokens", None) if token == 60_000 else None
    assert result == found


@pytest.mark.parametrize(
    ("size", "check", "detail"),
    [
        (35, "bin size", "truncated"),
        (34, "bin size", "truncated"),
        (38, "bin size", "grown"),
        (0, "bin size", "36"),
    ],
)
def test_a_bin_of_another_size_is_found(prefix: Path, size: int, check: str, detail: str) -> None:
    raw = Path(f"{prefix}.bin").read_bytes()
    Path(f"{prefix}.bin").write_bytes((raw + b"\1\0")[:size])
    assert detail in findings(prefix)[check]


def poke(offset: int, pattern: str, value: int) -> Callable[[Path], None]:
    def change(prefix: Path) -> None:
        raw = bytearray(Path(f"{prefix}.idx").read_bytes())
        struct.pack_into(pattern, raw, offset, value)
        Path(f"{prefix}.idx").write_bytes(raw)

    return change


LENGTHS, POINTERS, INDICES = 34, 34 + 4 * 4, 34 + 12 * 4


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        (poke(0, "B", 0), "index header", "not a Megatron index"),
        (poke(9, "<Q", 2), "index header", "version 2"),
        (poke(17, "B", 7), "index header", "type code 7"),
        (poke(17, "B", 4), "sidecar counts", "found int32, sidecar says uint16"),
        (poke(18, "<Q", 5), "index header", "bytes"),
        (poke(LENGTHS + 4, "<i", 4), "bin size", "grown|truncated"),
        (poke(LENGTHS + 4, "<i", 0), "documents", "1 are empty, first document 1"),
        (poke(POINTERS + 8, "<q", 12), "pointers", "sequence 1 and 0 more do not start"),
        (poke(INDICES, "<q", 1), "document index", "does not ascend from 0"),
        (poke(INDICES + 8, "<q", 2), "document index", "does not ascend"),
        (poke(INDICES + 4 * 8, "<q", 9), "document index", "does not ascend"),
        (lambda prefix: Path(f"{prefix}.idx").unlink(), "index header", "cannot be read"),
        (lambda prefix: Path(f"{prefix}.bin").unlink(), "bin", "does not exist"),
        (lambda prefix: Path(f"{prefix}.meap.json").unlink(), "sidecar", "--write-sidecar"),
        (lambda prefix: Path(f"{prefix}.tokenizer/tokenizer.json").unlink(), "tokenizer", "no tokenizer.json"),
    ],
)
def test_a_changed_index_or_missing_file_is_found(prefix: Path, change, check: str, detail: str) -> None:  # type: ignore[no-untyped-def]
    import re

    change(prefix)
    found = findings(prefix)
    assert check in found, found
    assert re.search(detail, found[check])


def test_a_foreign_tokenizer_beside_the_data_is_found(prefix: Path) -> None:
    path = Path(f"{prefix}.tokenizer/tokenizer.json")
    content = json.loads(path.read_text())
    content["model"]["vocab"]["a"], content["model"]["vocab"]["b"] = 4, 3
    path.write_text(json.dumps(content))
    assert "is not the one that made the data" in findings(prefix)["tokenizer"]


def test_a_sidecar_of_other_data_is_found(prefix: Path, tmp_path: Path, word_tokenizer: Path) -> None:
    preprocess(config(write_jsonl(tmp_path / "2.jsonl", ["a b d", *TEXTS[1:]]), tmp_path / "other", word_tokenizer))
    Path(f"{prefix}.meap.json").write_bytes((tmp_path / "other.meap.json").read_bytes())
    assert set(findings(prefix)) == {"content hash"}


def megatron_pair(prefix: Path, documents: list[list[int]]) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for ids in documents:
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize(
    ("documents", "bos", "eos"),
    [([[1, 3, 2], [1, 4, 2]], True, True), ([[3, 2], [4, 2]], False, True), ([[3], [4, 2]], False, False)],
)
def test_data_of_megatrons_own_tool_gets_a_sidecar(
    tmp_path: Path, word_tokenizer: Path, documents: list[list[int]], bos: bool, eos: bool
) -> None:
    megatron_pair(tmp_path / "foreign", documents)
    sidecar = adopt(tmp_path / "foreign", tokenizer=str(word_tokenizer))
    assert (sidecar.add_bos, sidecar.add_eos, sidecar.num_documents) == (bos, eos, 2)
    assert check_prefix(tmp_path / "foreign") == sidecar == read_sidecar(tmp_path / "foreign")
    assert findings(tmp_path / "foreign") == {}
    with pytest.raises(UserError, match="exists already"):
        adopt(tmp_path / "foreign", tokenizer=str(word_tokenizer))


@pytest.mark.parametrize(("ids", "message"), [([1, 9, 2], "outside 0..7"), ([1, 7, 2], "mask id")])
def test_data_that_does_not_fit_the_tokenizer_gets_no_sidecar(
    tmp_path: Path, word_tokenizer: Path, ids: list[int], message: str
) -> None:
    megatron_pair(tmp_path / "foreign", [ids])
    with pytest.raises(UserError, match=message):
        adopt(tmp_path / "foreign", tokenizer=str(word_tokenizer))
    assert names(tmp_path) == ["foreign.bin", "foreign.idx", "words"]
