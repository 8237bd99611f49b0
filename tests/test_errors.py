"""A refusal reaches the user, whatever guards the code between."""

import json
import struct
from pathlib import Path

import pytest

from meap_megatron.checkpoint.convert import hf_files
from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import read_records


def test_a_guard_against_damaged_text_does_not_swallow_a_refusal():
    def number(text: str) -> float | None:
        try:
            if text == "1e999":
                raise UserError("1e999 is too large")
            return float(text)
        except (ValueError, OSError, RuntimeError):
            return None

    assert number("words") is None
    with pytest.raises(UserError, match="1e999 is too large"):
        number("1e999")


def test_a_refusal_inside_a_guard_keeps_its_own_words(tmp_path: Path):
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(struct.pack("<Q", 100) + b"{}")
    with pytest.raises(UserError, match="is truncated") as refused:
        hf_files.read_header(cut)
    assert "download the file again" not in str(refused.value)
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"question": "who"}) + "\n")
    with pytest.raises(UserError, match="1: a record needs question, answer; get the published file again$"):
        read_records(records, ("question", "answer"))
