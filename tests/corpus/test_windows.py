"""A long text is encoded in windows only where that gives the ids of the whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meap_megatron.corpus import windows
from meap_megatron.corpus.encode import TokenizersEncoder
from meap_megatron.errors import UserError

GPT4 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PARTS = ["a", "word ", "  ", "\n", "\n\n", " 12", "x\n\ny", "e\u0301", "\u6f22", ".", "'s", "\t", " don't", "    "]


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def marked(kind: str) -> str:
    """A tokenizer that marks spaces, as tokenizer.json: T5's, Llama-2's, Mistral's or Gemma's kind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text = ["a word is not a word, don't say 12 words.  Two  spaces\nand lines"] * 3
    tokenizer = Tokenizer(models.Unigram() if "unigram" in kind else models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    options: dict[str, Any] = {"vocab_size": 120, "special_tokens": ["<unk>"], "show_progress": False}
    trainer = (
        trainers.UnigramTrainer(**options, unk_token="<unk>") if "unigram" in kind else trainers.BpeTrainer(**options)
    )
    tokenizer.train_from_iterator(text, trainer)
    content = json.loads(tokenizer.to_str())
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    if kind == "unigram of words":
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
        content["normalizer"] = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    elif kind == "llama":
        content["normalizer"] = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace],
        }
        content["pre_tokenizer"] = None
    elif kind == "mistral":
        content["pre_tokenizer"] = {**METASPACE, "split": False, "prepend_scheme": "first"}
    elif kind == "gemma":
        content["normalizer"] = replace
        content["pre_tokenizer"] = {**split(""), "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}
    return json.dumps(content)


@pytest.mark.parametrize("kind", ["unigram", "unigram of words", "llama", "mistral", "gemma"])
def test_a_tokenizer_that_marks_spaces_is_cut_at_them(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    definition = marked(kind)
    monkeypatch.setattr(windows, "WINDOW", 64)
    monkeypatch.setattr(windows, "MARGIN", 16)
    plan, whole = windows.windowed(definition), TokenizersEncoder(definition)
    assert plan is not None
    rng = np.random.default_rng(1)
    cut = 0
    for _ in range(60):
        text = "".join(rng.choice([*PARTS, "\u2581", "say a word ", " two  spaces"], size=100))
        ids = windows.encode_in_windows(plan, text)
        cut += ids is not None
        assert ids is None or ids.tolist() == whole.encode([text.encode()])[0].tolist()
    assert cut > 15


def test_a_pattern_that_takes_more_when_it_sees_the_end_of_a_run_of_spaces_is_not_cut_before_the_run(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [split(GPT4), {**content["pre_tokenizer"], "use_regex": False}],
    }
    definition = json.dumps(content)
    monkeypatch.setattr(windows, "WINDOW", 64)
    monkeypatch.setattr(windows, "MARGIN", 16)
    plan = windows.windowed(definition)
    assert plan is not None
    text = "a word " * 5 + "\n" + " " * 40 + "\n" + "a word " * 30
    (expected,) = TokenizersEncoder(definition).encode([text.encode()])
    ids = windows.encode_in_windows(plan, text)
    assert ids is not None and ids.tolist() == expected.tolist()


def test_a_long_text_that_can_be_cut_nowhere_is_refused(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from meap_megatron.corpus import encode

    monkeypatch.setattr(encode, "LONG_TEXT", 2**10)
    monkeypatch.setattr(encode, "WHOLE_LIMIT", 2**11)
    encoder = TokenizersEncoder(json.dumps({**content, "pre_tokenizer": None}))
    assert len(encoder.encode([b"ab" * 600])[0]) > 0
    with pytest.raises(UserError, match="a text of 0 MB, which begins 'abab.*has no place where it can be cut"):
        encoder.encode([b"ab" * 2000])


@pytest.fixture
def content(bpe_tokenizer: Path) -> dict[str, Any]:
    return json.loads((bpe_tokenizer / "tokenizer.json").read_text())


@pytest.mark.parametrize("kind", ["words", "digits", "pattern", "normalized", "several", "digits behind"])
def test_the_ids_are_those_of_the_whole(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    words = content["pre_tokenizer"]
    steps = {
        "digits": [{"type": "Digits", "individual_digits": True}, words],
        "pattern": [
            {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False},
            {**words, "use_regex": False},
        ],
        # DeepSeek's kind: what the second pattern finds depends on where a match of the first begins.
        "several": [split(r"[a-z0-9 ]{1,5}|\n+"), split(r"[a-z]{2}|\s+"), {**words, "use_regex": False}],
        "digits behind": [
            split(r"[a-z0-9 ]{1,5}|\n+"),
            {"type": "Digits", "individual_digits": True},
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
    monkeypatch.setattr(windows, "last_cut", lambda *args: sizes.append(len(args[2])) or cut(*args))
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
        ({"pre_tokenizer": METASPACE}, True),
        ({"pre_tokenizer": {**METASPACE, "split": False}}, False),  # the vocabulary has no mark of a space
        (
            {"pre_tokenizer": METASPACE, "normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
            False,
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [METASPACE, {"type": "Punctuation", "behavior": "Isolated"}],
                }
            },
            False,
        ),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, False),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "(?<=a)b"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            False,
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "[^ ]+| "},
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            True,
        ),
    ],
)
def test_only_texts_whose_pieces_give_their_ids_are_cut(
    content: dict[str, Any], changed: dict[str, Any], cuttable: bool
) -> None:
    assert (windows.windowed(json.dumps({**content, **changed})) is not None) is cuttable
