"""A row is real text with facts planted in it and one question for each, exactly as long as a sample."""

import random

import pytest

from experiments.retrieval_small.rows import Vocabulary, key_positions, made_up_words, make_row
from meap_megatron.errors import RunError

WORDS = Vocabulary(keys=("bado", "tera", "miko"), values=("kimu", "viso", "zilu"))
FILLER = [["alpha", "beta", "gamma"], ["one", "two"]]


def one_token(word: str) -> int:
    return 1


def row(seed: int = 0, *, num_facts: int = 2, rounds: int = 1, length: int = 20, num_tokens=one_token):
    shape = {"num_facts": num_facts, "rounds": rounds, "length": length, "num_tokens": num_tokens}
    return make_row(random.Random(seed), filler=FILLER, words=WORDS, **shape)


@pytest.mark.parametrize("seed", range(20))
def test_a_row_holds_every_fact_once_and_asks_for_every_fact_once_a_round_at_its_end(seed: int) -> None:
    made = row(seed, rounds=3, length=32)
    words = made.text.split()
    assert len(words) == 32 - 2  # BOS and EOS are not text
    facts = [words[i + 1 : i + 3] for i, word in enumerate(words) if word == "!"]
    questions = [words[i + 1 : i + 3] for i, word in enumerate(words) if word == "?"]
    assert [tuple(fact) for fact in facts] == list(made.pairs)
    assert questions == [list(made.pairs[index]) for index in made.asked]
    assert [sorted(made.asked[at : at + 2]) for at in (0, 2, 4)] == [[0, 1]] * 3
    assert words[-18::3] == ["?"] * 6
    filler = [word for word in words if word in "alpha beta gamma one two".split()]
    assert len(filler) == 30 - 24


def test_the_text_between_the_facts_is_consecutive() -> None:
    words = [word for word in row(3, num_facts=1, length=14).text.split() if word in FILLER[0] + FILLER[1]]
    document = next(document for document in FILLER if words[0] in document)
    start = document.index(words[0])
    assert words == [document[(start + step) % len(document)] for step in range(6)]


def test_key_positions_point_at_the_keys_of_the_first_round() -> None:
    made = row(5, rounds=2, length=26)
    ids = ["<s>", *made.text.split(), "</s>"]
    assert [ids[at] for at in key_positions(made, length=26)] == [made.pairs[index][0] for index in made.asked[:2]]
    assert key_positions(made, length=26) == [14, 17]


def test_words_of_several_tokens_still_fill_the_row_exactly() -> None:
    sizes = {"alpha": 3, "beta": 1, "gamma": 2, "one": 1, "two": 2}
    for seed in range(20):
        made = row(seed, length=21, num_tokens=lambda word: sizes.get(word, 1))
        assert sum(sizes.get(word, 1) for word in made.text.split()) == 19


def test_a_document_without_a_word_short_enough_for_the_end_is_passed_over() -> None:
    # `alpha beta gamma` has 2 tokens a word and cannot fill 7 tokens; `one two` has 1.
    for seed in range(20):
        made = row(seed, length=21, num_tokens=lambda word: 2 if word in FILLER[0] else 1)
        assert not set(made.text.split()) & set(FILLER[0])


def test_a_row_that_no_filler_fits_is_refused() -> None:
    with pytest.raises(RunError, match="no words that add up to 6 tokens in 20 documents"):
        row(num_tokens=lambda word: 50)


def test_made_up_words_are_seeded_distinct_and_not_those_of_the_text() -> None:
    words = made_up_words({"bado", "base"}, num_keys=64, num_values=64, seed=7)
    assert words == made_up_words({"bado", "base"}, num_keys=64, num_values=64, seed=7)
    assert words != made_up_words({"bado", "base"}, num_keys=64, num_values=64, seed=8)
    every = made_up_words(set(), num_keys=4000, num_values=900, seed=7)
    assert len({*every.keys, *every.values}) == 4900 == 14 * 5 * 14 * 5
    without = made_up_words({"bado"}, num_keys=4000, num_values=899, seed=7)
    assert "bado" in {*every.keys, *every.values} - {*without.keys, *without.values}
    with pytest.raises(RunError, match="4899 words"):
        made_up_words({"bado"}, num_keys=4000, num_values=900, seed=7)
