"""Scores of one answer: pure functions of strings, each as its publication computes it. All are fractions, 0 to 1."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
WORDS = re.compile(r"[a-z0-9]+")


def normalise_answer(text: str) -> str:
    """Return the form in which SQuAD compares answers: lower case, no ASCII punctuation, no articles, single spaces.

    Given "The  U.S. (in 1901)", then "us in 1901".
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def first_line(text: str) -> str:
    """Return what is before the first newline of a stripped answer.

    The official scripts of Liu et al. strip the answer and cut it there, since a model that copies its context would
    always name the answer.
    """
    return text.strip().split("\n")[0].strip()


def best_subspan_em(answer: str, golds: Sequence[str]) -> float:
    """Return 1 if any normalised gold answer is a part of the normalised first line of the answer (Liu et al.).

    A gold answer that normalises to nothing is part of every answer: such a question always scores 1, as published.
    """
    said = normalise_answer(first_line(answer))
    return float(any(normalise_answer(gold) in said for gold in golds))


def contains_value(answer: str, value: str) -> float:
    """Return 1 if the value occurs in the answer, upper and lower case alike (key-value retrieval of Liu et al.)."""
    return float(value.lower() in answer.lower())


def keyword_fraction(answer: str, expected: str) -> float:
    """Return the share of the expected answer's words that occur anywhere in the answer (NeedleBench v1, / 100)."""
    words, said = expected.lower().split(), answer.lower()
    return sum(word in said for word in words) / len(words) if words else 0.0


def rouge1_recall(answer: str, expected: str) -> float:
    """Return ROUGE-1 recall: the share of the expected words that the answer holds, each as often as it is expected.

    Words are runs of a-z and 0-9 in lower case; no stemming.
    """
    wanted = Counter(WORDS.findall(expected.lower()))
    held = Counter(WORDS.findall(answer.lower()))
    return (wanted & held).total() / wanted.total() if wanted else 0.0


def rouge1_f1(answer: str, needle: str) -> float:
    """Return ROUGE-1 F1 with Porter stemming against the whole needle, as the scripts of Fu et al. store it."""
    return float(_stemming_scorer().score(needle, answer)["rouge1"].fmeasure)


def set_overlap(answer: str, expected: str) -> float:
    """Return the score that the plotting script of Fu et al. prints: shared distinct words / expected words.

    Words end at white space, and the expected answer ends in a full stop. An answer that is right in full stays below
    1 where an expected word occurs twice (11/12 for the published needle).
    """
    words = f"{expected}.".lower().split()
    return len(set(answer.lower().split()) & set(words)) / len(words)


def strict_hit(answer: str, keywords: Sequence[str]) -> float:
    """Return 1 if every keyword occurs in the first line of the answer."""
    said = first_line(answer).lower()
    return float(all(keyword.lower() in said for keyword in keywords))


@cache
def _stemming_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=True)
