"""One row: a stretch of real text with facts planted in it and questions for them at the end. Pure Python.

Given 2 facts, 2 rounds of questions and the filler `import os def`, the row reads

     import ! bado kimu os ! tera viso def ? tera viso ? bado kimu ? bado kimu ? tera viso

`bado` and `tera` are keys, `kimu` and `viso` their values in this row only. Keys, values and marks are one token each,
and every row is exactly `length` tokens with BOS and EOS, so that Megatron's samples are rows.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from meap_megatron.errors import RunError

FACT, QUESTION = "!", "?"
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
TOKENS_PER_PAIR = 3
LONGEST_WORD = 12  # tokens; longer filler words are left out
PATIENCE = 2000  # filler words looked at before a document is given up
DOCUMENTS = 20  # tried before a row is given up


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The made-up words."""

    keys: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row and what is asked in it."""

    text: str
    pairs: tuple[tuple[str, str], ...]
    """(key, value) in the order of the facts."""
    asked: tuple[int, ...]
    """For every question, in order, the index of its fact; each round asks for every fact once."""


def made_up_words(taken: Iterable[str], *, num_keys: int, num_values: int, seed: int) -> Vocabulary:
    """Draw words of two syllables that the real text does not have.

    Raises:
        RunError: there are too few of them.
    """
    candidates = ["".join(letters) for letters in product(CONSONANTS, VOWELS, CONSONANTS, VOWELS)]
    random.Random(f"words {seed}").shuffle(candidates)
    known = set(taken)
    free = [word for word in candidates if word not in known]
    if len(free) < num_keys + num_values:
        raise RunError(
            f"{len(free)} words of two syllables do not occur in the text; {num_keys + num_values} are needed"
        )
    return Vocabulary(keys=tuple(free[:num_keys]), values=tuple(free[num_keys : num_keys + num_values]))


def make_row(
    draw: random.Random,
    *,
    filler: Sequence[Sequence[str]],
    words: Vocabulary,
    num_facts: int,
    rounds: int,
    length: int,
    num_tokens: Callable[[str], int],
    distractors: int = 0,
) -> Row:
    """Make one row.

    Args:
        draw: the only source of chance.
        filler: documents as words; one of them is taken, from a random word on.
        words: keys and values; the keys of a row differ, and so do its values.
        num_facts: facts of the row.
        rounds: times that each of them is asked for.
        length: tokens, BOS and EOS among them.
        num_tokens: tokens of a word with a space before it.
        distractors: facts more, with keys and values of their own, that nothing asks for.

    Raises:
        RunError: no filler fits.
    """
    room = length - 2 - TOKENS_PER_PAIR * (num_facts * (1 + rounds) + distractors)
    text = take_filler(draw, filler, room=room, num_tokens=num_tokens)
    planted = num_facts + distractors
    pairs = tuple(zip(draw.sample(words.keys, planted), draw.sample(words.values, planted), strict=True))
    gaps = sorted(draw.randint(0, len(text)) for _ in pairs)
    for gap, (key, value) in reversed(list(zip(gaps, pairs, strict=True))):
        text[gap:gap] = [FACT, key, value]
    if distractors:
        pairs = tuple(pairs[index] for index in sorted(draw.sample(range(planted), num_facts)))
    asked = tuple(index for _ in range(rounds) for index in draw.sample(range(num_facts), num_facts))
    for index in asked:
        text += [QUESTION, *pairs[index]]
    return Row(text="".join(f" {word}" for word in text), pairs=pairs, asked=asked)


def take_filler(
    draw: random.Random, filler: Sequence[Sequence[str]], *, room: int, num_tokens: Callable[[str], int]
) -> list[str]:
    """Return consecutive words of one document of `room` tokens; a word that is too long for the rest is passed over.

    Raises:
        RunError: among many documents, none has a word that is short enough for the end.
    """
    for _ in range(DOCUMENTS):
        document = draw.choice(filler)
        start = draw.randrange(len(document))
        taken: list[str] = []
        left = room
        for step in range(PATIENCE):
            if left == 0:
                return taken
            word = document[(start + step) % len(document)]
            size = num_tokens(word)
            if size <= min(left, LONGEST_WORD):
                taken.append(word)
                left -= size
    raise RunError(f"the filler has no words that add up to {room} tokens in {DOCUMENTS} documents; give it more text")


def key_positions(row: Row, *, length: int) -> list[int]:
    """Return, for every question of the first round, the index of its key in the row's ids; the value is the next token."""
    first = length - 1 - TOKENS_PER_PAIR * len(row.asked) + 1
    return [first + TOKENS_PER_PAIR * question for question in range(len(row.pairs))]
