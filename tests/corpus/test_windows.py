"""A long text is encoded in windows only where that gives the ids of the whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meap_megatron.corpus import windows
from meap_megatron.corpus.encode import TokenizersEncoder

GPT4 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PARTS = ["a", "word ", "  ", "\n", "\n\n", " 12", "x\n\ny", "e\u0301", "\u6f22", ".", "'s", "\t", " don't", "    "]


@pytest.fixture
def content(bpe_tokenizer: Path) -> dict[str, Any]:
    return json.loads((bpe_tokenizer / "tokenizer.json").read_text())


@pytest.mark.parametrize("kind", ["words", "digits", "pattern", "normalized"])
def test_the_ids_are_those_of_the_whole(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    words = content["pre_tokenizer"]
    steps = {
        "digits": [{"type": "Digits", "individual_digits": True}, words],
        "pattern": [
            {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False},
            {**words, "use_regex": False},
        ],
    }
    if kind in steps:
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps[kind]}
    if kind == "normalized":
        content["normalizer"] = {"type": "NFC"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"].append({"id": 600, "content": "x\n\ny", **flags})
    definition = json.dumps(content)
    monkeypatch.setattr(windows, "WINDOW", 64)
    monkeypatch.setattr(windows, "MARGIN", 16)
    tokenizer, whole = windows.windowed(definition), TokenizersEncoder(definition)
    assert tokenizer is not None
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(60):
        text = "".join(rng.choice(PARTS, size=100))
        ids = windows.encode_in_windows(tokenizer, text)
        cut += ids is not None
        assert ids is None or ids.tolist() == whole.encode([text.encode()])[0].tolist()
    assert cut > 30


def test_the_encoder_takes_windows_for_a_long_text(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from meap_megatron.corpus import encode

    text = ("a word and 12 more\n" * 4000).encode()
    definition = json.dumps(content)
    (whole,) = TokenizersEncoder(definition).encode([text])
    monkeypatch.setattr(encode, "LONG_TEXT", 2**14)
    monkeypatch.setattr(windows, "WINDOW", 2**13)
    sizes = []
    cut = windows.last_cut
    monkeypatch.setattr(windows, "last_cut", lambda *args: sizes.append(len(args[1])) or cut(*args))
    short, long = TokenizersEncoder(definition).encode([b"a", text])
    assert (len(short), long.tolist()) == (1, whole.tolist())
    assert len(sizes) > 5
    assert set(sizes) == {2**13}


@pytest.mark.parametrize(
    ("changed", "cuttable"),
    [
        ({}, True),
        ({"normalizer": {"type": "Prepend", "prepend": "_"}}, False),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}}, False),
        ({"pre_tokenizer": None}, False),
        ({"pre_tokenizer": {"type": "Metaspace"}}, False),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, False),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated"}}, False),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[^ ]+| "}, "behavior": "Isolated"}}, True),
    ],
)
def test_only_texts_whose_pieces_give_their_ids_are_cut(
    content: dict[str, Any], changed: dict[str, Any], cuttable: bool
) -> None:
    assert windows.is_cuttable({**content, **changed}) is cuttable
