"""The bytes of a text are the sum over its tokens, whatever kind of tokenizer made them."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from meap_megatron.tokenizer.byte_lengths import byte_lengths
from meap_megatron.tokenizer.load import load_tokenizer
from meap_megatron.tokenizer.parsed import parsed
from tests.support.corpus import library_texts, write_byte_tokenizer

TEXTS = (
    "The cat sat on the mat, and the cat sat down.",
    " leading space, two  spaces\n\nand\ttabs ",
    "\n1234 a",
    "naïve 日本語 🙂 e\u0301 \u2028 end",
    "a",
)
SMALL = ("the cat sat on the mat and a dog ran down", "spaces and tabs, leading end")


def byte_level(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(write_byte_tokenizer(folder, vocab_size=300, texts=SMALL) / "tokenizer.json"))


def sentencepiece(folder: Path) -> Tokenizer:
    """As Llama-2's: a space before the text, spaces as a letter, unknown characters as bytes."""
    space = "▁"
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    words = [space, *"abcdefghimnorst,", "a" + "t", "t" + "h", "th" + "e", space + "the", space + space]
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *bytes_, *words])}
    merges = [("a", "t"), ("t", "h"), ("th", "e"), (space, "the"), (space, space)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram(folder: Path) -> Tokenizer:
    """As T5's, from a vocabulary that has every character of the texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *SMALL] * 4, trainer)
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, sentencepiece, unigram])
def test_the_tokens_of_a_text_add_up_to_its_bytes(make: object, tmp_path: Path) -> None:
    tokenizer = make(tmp_path)  # type: ignore[operator]
    sizes = byte_lengths(tokenizer)
    for text in TEXTS:
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
        decoded = tokenizer.decode(ids.tolist())
        assert sizes.count(ids, opens=True).sum() == len(decoded.encode()), text
        if make is not unigram or not text.startswith((" ", "\n")):  # Metaspace loses a space that is there already
            assert decoded == text
    # Two texts after one another, as a row of training holds them.
    both = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS[:2]]
    end = tokenizer.token_to_id("</s>")
    row = np.array([*both[0], end, *both[1], end])
    expected = sum(len(tokenizer.decode(ids).encode()) for ids in both)
    assert sizes.count(row, opens=True).sum() == expected
    assert sizes.inside[end] == 0 and sizes.special[end]


def test_a_real_sentencepiece_model_adds_up(llama_model: Path) -> None:
    loaded = load_tokenizer(llama_model)
    tokenizer = parsed(loaded.definition)
    sizes = byte_lengths(tokenizer, special=loaded.special_ids)
    for text in (*TEXTS, *library_texts(100_000)):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids)
        assert sizes.count(ids, opens=True).sum() == len(text.encode()), text[:80]


def test_special_tokens_are_no_text_and_other_added_ones_are(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    tokenizer.add_tokens(["<think>", "<größe>"])
    number = tokenizer.token_to_id
    sizes = byte_lengths(tokenizer, special=[number("<think>"), None])
    assert sizes.inside[number("<s>")] == sizes.first[number("<think>")] == 0
    assert sizes.inside[number("<größe>")] == 9


def test_the_space_before_a_text_is_no_byte_of_it(tmp_path: Path) -> None:
    tokenizer = sentencepiece(tmp_path)
    sizes = byte_lengths(tokenizer)
    the, newline = tokenizer.token_to_id("▁the"), tokenizer.token_to_id("<0x0A>")
    assert (sizes.inside[the], sizes.first[the]) == (4, 3)
    assert (sizes.inside[newline], sizes.first[newline]) == (1, 1)
    assert sizes.count(np.array([the, the]), opens=False).tolist() == [4, 4]
    assert sizes.count(np.array([the, 1, the]), opens=True).tolist() == [3, 0, 3]
