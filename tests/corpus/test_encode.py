import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from meap_megatron.corpus import encode
from meap_megatron.corpus.encode import GigatokenEncoder, SpotCheck, TokenizersEncoder, choose_encoder
from meap_megatron.errors import RunError, UserError
from meap_megatron.tokenizer.load import load_tokenizer

SPECIAL_TEXT = b"a </s> b [MASK] <s> <unk> [INST]"


@pytest.mark.parametrize("kind", [GigatokenEncoder, TokenizersEncoder])
def test_special_tokens_in_the_text_are_plain_text(bpe_tokenizer: Path, llama_model: Path, kind) -> None:  # type: ignore[no-untyped-def]
    for source in (bpe_tokenizer, llama_model):
        tokenizer = load_tokenizer(source)
        (ids,) = kind(tokenizer.definition).encode([SPECIAL_TEXT])
        assert not set(ids.tolist()) & set(tokenizer.special_ids)
        assert len(ids) > 10


def test_every_real_sentencepiece_model_converts_to_equal_ids() -> None:
    import mistral_common

    texts = [SPECIAL_TEXT, b"", b"  two  spaces ", "é漢🎉\x00\n\n\t".encode(), Path(json.__file__).read_bytes()]
    models = sorted((Path(mistral_common.__file__).parent / "data").glob("*.model*"))
    assert len(models) >= 3
    for model in models[:3]:
        assert choose_encoder("gigatoken", load_tokenizer(model), texts) == ("gigatoken", None)


def test_a_unigram_model_converts_to_equal_ids(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "corpus").write_text(Path(json.__file__).read_text())
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus"), model_prefix=str(tmp_path / "u"), vocab_size=400, minloglevel=2
    )
    tokenizer = load_tokenizer(tmp_path / "u.model")
    assert tokenizer.info.mask_id == 400
    name, reason = choose_encoder("auto", tokenizer, [b"import json", b"a  b</s>c"])
    assert name == "tokenizers"
    assert reason and "Unigram" in reason


def test_the_fast_path_is_taken_when_it_agrees(bpe_tokenizer: Path) -> None:
    assert choose_encoder("auto", load_tokenizer(bpe_tokenizer), [b"def f(): pass"]) == ("gigatoken", None)
    assert choose_encoder("tokenizers", load_tokenizer(bpe_tokenizer), []) == ("tokenizers", None)


def test_the_fast_path_is_left_when_it_disagrees(bpe_tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self, texts):  # type: ignore[no-untyped-def]
        return [np.zeros(3, dtype=np.uint32) for _ in texts]

    monkeypatch.setattr(GigatokenEncoder, "encode", wrong)
    tokenizer = load_tokenizer(bpe_tokenizer)
    name, reason = choose_encoder("auto", tokenizer, [b"hello"])
    assert name == "tokenizers"
    assert reason and "token 0 is [0, 0, 0] by gigatoken" in reason
    with pytest.raises(UserError, match="use --encoder tokenizers"):
        choose_encoder("gigatoken", tokenizer, [b"hello"])
    check = SpotCheck(GigatokenEncoder(tokenizer.definition), tokenizer.definition)
    with pytest.raises(RunError, match="--encoder tokenizers"):
        check.check([b"x" * 5000, b"short"])


def test_a_sentencepiece_model_that_does_not_convert_is_refused(llama_model: Path) -> None:
    tokenizer = load_tokenizer(llama_model)
    content = json.loads(tokenizer.definition)
    content["model"]["merges"] = content["model"]["merges"][::-1]
    with pytest.raises(UserError, match="has no equal tokenizer.json"):
        choose_encoder("auto", dataclasses.replace(tokenizer, definition=json.dumps(content)), [b"hello world"])


GROWTH = """
import json, sys
import numpy as np
from meap_megatron.corpus import encode
from meap_megatron.tokenizer.load import load_tokenizer

build, starts = encode.GigatokenEncoder._build, []


def build_and_note(encoder):
    build(encoder)
    starts.append(encoder._resident)


encode.GigatokenEncoder._build = build_and_note
encode.MEMORY_LIMIT = 32 * 2**20
encoder = encode.GigatokenEncoder(load_tokenizer(sys.argv[1]).definition)
letters = np.random.default_rng(0).integers(ord("a"), ord("z") + 1, size=(40, 40_000, 10), dtype=np.uint8)
letters[:, :, -1] = ord(" ")
start = encode.resident_bytes()
for words in letters:  # that never come again
    encoder.encode([words.tobytes()])
print(json.dumps([encode.resident_bytes() - start, starts]))
"""


def test_gigatoken_gives_its_memory_back(bpe_tokenizer: Path) -> None:
    """In a process of its own, as workers are: what other tests leave in this one's heap is no part of it."""
    command = [sys.executable, "-c", GROWTH, str(bpe_tokenizer)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    grown, starts = json.loads(done.stdout)
    assert grown < 80 * 2**20, f"{grown / 2**20:.0f} MiB; about 180 without the limit"
    # Where freed memory is kept, later encoders grow within it, unseen: fewer are built, or each starts higher up.
    assert len(starts) > 5
    crept = starts[-1] - starts[0]
    assert crept < 36 * 2**20, f"a new encoder starts {crept / 2**20:.0f} MiB above the first: freed memory was kept"


def test_memory_goes_back_after_the_old_encoder_and_before_the_new_one(
    bpe_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = GigatokenEncoder(load_tokenizer(bpe_tokenizer).definition)
    there = []
    monkeypatch.setattr(encode, "return_free_memory", lambda: there.append(encoder._backend))
    monkeypatch.setattr(encode, "MEMORY_LIMIT", -(2**40))  # always above it
    encoder.encode([b"hello"])
    assert there == [None]


def test_both_encoders_agree_on_arbitrary_text(bpe_tokenizer: Path, llama_model: Path) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    pairs = [
        (GigatokenEncoder(definition), TokenizersEncoder(definition))
        for definition in (load_tokenizer(source).definition for source in (bpe_tokenizer, llama_model))
    ]

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
    def agree(text: str) -> None:
        for fast, reference in pairs:
            assert encode.first_difference(fast, reference, [text.encode()]) is None

    agree()


def digits_first(bpe_tokenizer: Path, folder: Path, *, individual: bool, without: str = "") -> Path:
    """The trained BPE with SmolLM2's pre-tokenizer, which gigatoken cannot load, and with bytes that have no token."""
    content = json.loads((bpe_tokenizer / "tokenizer.json").read_text())
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": individual}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, words]}
    model = content["model"]
    model["vocab"] = {token: index for token, index in model["vocab"].items() if token not in without}
    model["merges"] = [pair for pair in model["merges"] if not set("".join(pair)) & set(without)]
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("individual", [True, False])
def test_tokenizers_like_smollm2_take_the_fast_path(bpe_tokenizer: Path, tmp_path: Path, individual: bool) -> None:
    from hypothesis import given, settings
    from hypothesis import strategies as st

    source = digits_first(
        bpe_tokenizer, tmp_path / "t", individual=individual, without="\u0106\u0104"
    )  # bytes 6 and 4
    definition = load_tokenizer(source).definition
    assert choose_encoder("auto", load_tokenizer(source), [b"year 2024  and 12"]) == ("gigatoken", None)
    pair = GigatokenEncoder(definition), TokenizersEncoder(definition)
    texts = [
        "",
        "5",
        "a  5",
        "\u00bd \u2075x \u0663\u0664 \u4e00 \u2167",
        "a\x06b 1\x04",
        "x" * 40 + "17" * 40,
        " 1 2  3\n\n4",
    ]
    assert encode.first_difference(*pair, [text.encode() for text in texts]) is None

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.sampled_from("ab 1\n\x06\u00b2\u0664.'s\U0001d7d8"), max_size=30))
    def agree(text: str) -> None:
        assert encode.first_difference(*pair, [text.encode()]) is None

    agree()
