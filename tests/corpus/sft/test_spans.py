"""A row cut at its special tokens has the ids of one encoding of its text, for every kind of tokenizer."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from meap_megatron.corpus.sft.encode import PieceEncoder
from meap_megatron.corpus.sft.spans import Known, SpanBuilder, TextRun, inner_definition, template_specials

TEXT = "<|a|> hello  world <|b|>hello<|a|>\n x<|b|> \t<|b|> world y"


def bpe(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), "\u2581", " ", "\n", "\t"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([Path(json.__file__).read_text() + " hello world" * 9], trainer)
    return tokenizer


TOKENIZERS = {
    "byte level": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte level with prefix": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "metaspace always": lambda: bpe(pre_tokenizers.Metaspace(prepend_scheme="always")),
    "metaspace first": lambda: bpe(pre_tokenizers.Metaspace(prepend_scheme="first")),
    "metaspace first in a sequence": lambda: bpe(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Metaspace(prepend_scheme="first")])
    ),
    "metaspace never": lambda: bpe(pre_tokenizers.Metaspace(prepend_scheme="never")),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", [TEXT, TEXT.removeprefix("<|a|>"), "hello", " <|a|>"])
@pytest.mark.parametrize(("lstrip", "rstrip"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_ids_of_the_pieces_are_those_of_the_whole(name: str, text: str, lstrip: bool, rstrip: bool) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_special_tokens([AddedToken("<|a|>", lstrip=lstrip), AddedToken("<|b|>", rstrip=rstrip)])
    definition, specials = template_specials(tokenizer.to_str())
    builder = SpanBuilder()
    for part in specials.split(text):
        if isinstance(part, str):
            builder.text(part, 0)
        else:
            builder.special(part, 0)
    ((ids, _),), _ = PieceEncoder("tokenizers", definition).encode([builder.finish()])
    assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_neighbouring_texts_are_one_run_with_the_roles_of_its_characters() -> None:
    builder = SpanBuilder()
    builder.text("ab", 0)
    builder.text("c", 0)
    builder.text("de", 1)
    builder.text("", 2)
    builder.known(7, 2)
    builder.text("f", 0)
    builder.start()
    builder.text("g", 1)
    assert builder.finish() == [
        TextRun(text="abcde", first=True, roles=((3, 0), (5, 1))),
        Known(7, 2),
        TextRun(text="f", first=True, roles=((1, 0),)),
        TextRun(text="g", first=True, roles=((1, 1),)),
    ]


def test_the_bytes_of_all_texts_are_counted() -> None:
    definition, _ = template_specials(bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)).to_str())
    row = [TextRun(text="hé", first=True, roles=((1, 0), (2, 1))), TextRun(text="o", first=False, roles=((1, 1),))]
    assert PieceEncoder("tokenizers", definition).encode([row])[1] == 4


def test_the_longest_special_token_is_taken() -> None:
    tokenizer = bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_special_tokens(["<a", "<a>"])
    _, specials = template_specials(tokenizer.to_str())
    assert [part if isinstance(part, str) else part.text for part in specials.split("x<a><ay")] == [
        "x",
        "<a>",
        "<a",
        "y",
    ]


def test_a_tokenizer_without_the_scheme_first_is_not_loaded_twice() -> None:
    definition = bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)).to_str()
    assert inner_definition(definition) is definition
