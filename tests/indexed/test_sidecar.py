import dataclasses
import json
from pathlib import Path

import pytest

from meap_megatron.corpus.preprocess import preprocess
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix, read_sidecar, write_sidecar


@pytest.fixture
def prefix(tmp_path: Path, word_tokenizer: Path) -> Path:
    (tmp_path / "in.jsonl").write_text('{"text": "a b"}\n{"text": "c"}\n')
    config = PreprocessConfig(
        inputs=[str(tmp_path / "in.jsonl")], output=str(tmp_path / "out"), tokenizer=str(word_tokenizer)
    )
    preprocess(config)
    return tmp_path / "out"


def test_a_sidecar_says_what_was_made(prefix: Path) -> None:
    sidecar = check_prefix(prefix)
    assert (sidecar.kind, sidecar.num_documents, sidecar.num_tokens, sidecar.dtype) == ("text", 2, 7, "uint16")
    assert (sidecar.bin_bytes, sidecar.idx_bytes) == (14, 34 + 2 * 12 + 3 * 8)
    assert (sidecar.add_bos, sidecar.add_eos) == (True, True)
    tokenizer = sidecar.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id) == (1, 2, None, 7)
    assert (tokenizer.vocab_size, tokenizer.mask_token, tokenizer.folder) == (8, "[MASK]", "out.tokenizer")


def test_a_sidecar_survives_writing_and_reading(prefix: Path, tmp_path: Path) -> None:
    sidecar = dataclasses.replace(read_sidecar(prefix), num_tokens=5)
    write_sidecar(tmp_path / "copy", sidecar)
    assert read_sidecar(tmp_path / "copy") == sidecar


def test_the_content_hash_is_that_of_bin_and_idx_and_not_of_the_path(prefix: Path, tmp_path: Path) -> None:
    import hashlib

    raw = Path(f"{prefix}.bin").read_bytes() + Path(f"{prefix}.idx").read_bytes()
    assert read_sidecar(prefix).content_hash == hashlib.sha256(raw).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format_version=2), "format version 2"),
        (lambda record: record.pop("dtype"), "dtype"),
        (lambda record: record.update(num_documents="2"), "num_documents"),
        (lambda record: record.update(num_documents=True), "num_documents"),
        (lambda record: record["tokenizer"].pop("mask_id"), "mask_id"),
        (lambda record: record.update(kind="video"), "kind 'video'"),
    ],
)
def test_a_malformed_sidecar_is_refused(prefix: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = Path(f"{prefix}.meap.json")
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        check_prefix(prefix)


def test_a_missing_sidecar_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--write-sidecar"):
        check_prefix(tmp_path / "nothing")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("damage", ["truncate", "grow", "remove"])
def test_the_cheap_check_sees_a_file_of_another_size(prefix: Path, suffix: str, damage: str) -> None:
    path = Path(f"{prefix}{suffix}")
    raw = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(raw[:-1] if damage == "truncate" else raw + b"\0")
    with pytest.raises(UserError, match=str(path)):
        check_prefix(prefix)


@pytest.mark.parametrize(
    ("offset", "byte", "message"),
    [(0, 0, "not a Megatron index"), (9, 2, "version 2"), (17, 4, "int32"), (18, 3, "bytes")],
)
def test_the_cheap_check_sees_a_changed_header(prefix: Path, offset: int, byte: int, message: str) -> None:
    path = Path(f"{prefix}.idx")
    raw = bytearray(path.read_bytes())
    raw[offset] = byte
    path.write_bytes(raw)
    with pytest.raises(UserError, match=message):
        check_prefix(prefix)
