"""verify and merge of fine-tuning data: what is wrong is named."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meap_megatron.corpus.merge import merge
from meap_megatron.corpus.sft.preprocess import preprocess_sft
from meap_megatron.corpus.verify import verify
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix, read_sidecar
from tests.corpus.sft.sft_samples import alpaca, config, rows
from tests.support.conversations import write_rows


@pytest.fixture
def prefix(tmp_path: Path, chat_words: Path) -> Path:
    """Two rows: an answer of two tokens and one of one."""
    source = write_rows(tmp_path / "in.jsonl", [alpaca("q", "a b"), alpaca("q", "c")])
    preprocess_sft(config(source, tmp_path / "out", chat_words, system="be"))
    return tmp_path / "out"


def failed(prefix: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify(prefix) if not check.passed}


def change(path: Path, position: int, value: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] = value
    path.write_bytes(raw)


def test_good_data_passes(prefix: Path) -> None:
    assert failed(prefix) == {}
    assert {"roles header", "roles aligned", "roles known", "rows trained", "trained tokens"} <= {
        check.name for check in verify(prefix)
    }


def test_an_unknown_role_is_named(prefix: Path) -> None:
    change(Path(f"{prefix}.roles.bin"), 3, 4)
    found = failed(prefix)
    assert found["roles known"].startswith("role 4 at token 3; known are 0 to 3,")
    assert "content hash" in found


def test_the_role_of_a_cut_answer_is_known_at_the_end_of_a_row_only(prefix: Path) -> None:
    roles = Path(f"{prefix}.roles.bin")
    for position in (16, 32):  # the last of both rows
        change(roles, position, 64 + 7)
    assert failed(prefix).keys() == {"content hash"}
    change(roles, 15, 64 + 7)
    assert failed(prefix)["roles known"].startswith("role 71 at token 15; known are 0 to 3, and from 64 where")
    change(roles, 15, 1)
    change(roles, 32, 63)
    assert failed(prefix)["roles known"].startswith("role 63 at token 32;")


def test_a_row_that_trains_nothing_is_named(prefix: Path) -> None:
    for position in (31, 32):  # of 17 + 16 tokens, the answer and the end of the second row
        change(Path(f"{prefix}.roles.bin"), position, 0)
    assert failed(prefix)["rows trained"] == "row 1 has no token to train"
    assert failed(prefix)["trained tokens"] == "3, the sidecar says 5"


def test_roles_of_other_rows_are_refused(prefix: Path) -> None:
    index = Path(f"{prefix}.roles.idx")
    lengths = np.frombuffer(index.read_bytes()[34:42], np.int32)
    assert lengths.tolist() == [17, 16]
    change(index, 34, 16)
    assert "differ from those of the ids" in failed(prefix)["roles aligned"]


@pytest.mark.parametrize("suffix", [".roles.bin", ".roles.idx"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_damaged_roles_are_found_without_reading_them(
    prefix: Path, suffix: str, damage: Callable[[Path], Any]
) -> None:
    path = Path(f"{prefix}{suffix}")
    damage(path)
    with pytest.raises(UserError, match=f"out{suffix} (has|does not exist)"):
        check_prefix(prefix)
    assert failed(prefix)


def test_a_sidecar_without_the_field_of_fine_tuning_data_is_refused(prefix: Path) -> None:
    path = Path(f"{prefix}.meap.json")
    record = json.loads(path.read_text())
    del record["sft"]
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="'sft' lacks"):
        read_sidecar(prefix)


def test_merge_joins_ids_roles_and_counts(prefix: Path, tmp_path: Path) -> None:
    sidecar = merge(tmp_path / "both", [f"{prefix}.roles.bin", str(prefix), f"{prefix}"])
    assert sidecar.num_documents == 2  # the same prefix counts once
    source = write_rows(tmp_path / "more.jsonl", [alpaca("q", "a " * 30)])
    preprocess_sft(config(source, tmp_path / "more", tmp_path / "words", system="be"))
    sidecar = merge(tmp_path / "all", [str(tmp_path / "more"), str(prefix)])
    assert rows(tmp_path / "all") == rows(tmp_path / "more") + rows(prefix)
    assert sidecar.sft is not None
    assert sidecar.sft["counts"]["read"] == sidecar.sft["counts"]["kept"] == 3
    assert sidecar.sft["num_trained_tokens"] == 5 + 31
    assert sidecar.sft["answer_length_histogram"] == [[5, 2], [10, 0], [25, 0], [50, 1]]
    assert failed(tmp_path / "all") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"template": "chatml"}, "template is 'chatml'"), ({"max_length": 99}, "max_length is 99")],
)
def test_merge_refuses_other_options(prefix: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    other = config(tmp_path / "in.jsonl", tmp_path / "other", tmp_path / "words")
    preprocess_sft(dataclasses.replace(other, **changes))
    with pytest.raises(UserError, match=message):
        merge(tmp_path / "all", [str(prefix), str(tmp_path / "other")])
