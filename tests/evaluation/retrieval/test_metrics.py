"""Hand-written answers score exactly what the published metrics give."""

import pytest

from meap_megatron.evaluation.retrieval import metrics
from meap_megatron.evaluation.retrieval.needle import NEEDLES

SANDWICH = NEEDLES[0]


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  U.S. (in 1901)", "us in 1901"),
        ("An apple, a day: the END!", "apple day end"),
        ("theatre and another", "theatre and another"),
        ("Röntgen\tW.-C.", "röntgen wc"),
        ("the", ""),
    ],
)
def test_normalisation(text: str, normalised: str) -> None:
    assert metrics.normalise_answer(text) == normalised


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("Wilhelm Conrad Röntgen, of Germany", ["Wilhelm Conrad Röntgen"], 1.0),
        ("wilhelm conrad rontgen", ["Wilhelm Conrad Röntgen"], 0.0),
        ("\n\n It was May 18 2018.\nQuestion: next", ["May 18, 2018"], 1.0),
        ("I do not know\nMay 18, 2018", ["May 18, 2018"], 0.0),
        ("a 1945ish year", ["1945"], 1.0),  # substrings count, as published
        ("", ["Paris"], 0.0),
        ("", ["The"], 1.0),  # normalises to nothing: always 1, as published
        ("London", ["Paris", "London"], 1.0),
    ],
)
def test_best_subspan_em(answer: str, golds: list[str], expected: float) -> None:
    assert metrics.best_subspan_em(answer, golds) == expected


def test_rouge_recall_counts_words_as_often_as_they_are_expected() -> None:
    # 12 expected words: eat a sandwich and sit in dolores park on a sunny day
    assert metrics.rouge1_recall("Eat a sandwich and sit in Dolores Park on a sunny day.", SANDWICH.answer) == 1.0
    assert metrics.rouge1_recall("eat a sandwich", SANDWICH.answer) == 3 / 12
    assert metrics.rouge1_recall("a a a a", SANDWICH.answer) == 2 / 12
    assert metrics.rouge1_recall("a and in on", SANDWICH.answer) == 4 / 12
    assert metrics.rouge1_recall("", SANDWICH.answer) == 0.0


def test_the_other_readings_of_rouge_have_the_ceilings_of_the_protocol() -> None:
    assert metrics.rouge1_f1(SANDWICH.answer, SANDWICH.text) == pytest.approx(2 * 12 / (12 + 21))  # 0.727
    assert metrics.rouge1_f1(SANDWICH.text, SANDWICH.text) == 1.0
    assert metrics.rouge1_f1("things", "thing") == 1.0  # stemmed
    assert metrics.set_overlap(f"{SANDWICH.answer}.", SANDWICH.answer) == 11 / 12
    assert metrics.set_overlap(SANDWICH.answer, SANDWICH.answer) == 10 / 12  # "day" is not "day."


def test_a_strict_hit_stands_in_the_first_line() -> None:
    assert metrics.strict_hit(" Eat a Sandwich in Dolores Park.\nQuestion", SANDWICH.keywords) == 1.0
    assert metrics.strict_hit("Eat a sandwich.\nDolores Park", SANDWICH.keywords) == 0.0


def test_value_and_keyword_scores() -> None:
    assert metrics.contains_value(' "2A8D-11"', "2a8d-11") == 1.0
    assert metrics.contains_value("2a8d", "2a8d-11") == 0.0
    assert metrics.keyword_fraction("It is Ada LOVE, surely", "Ada Lovelace") == 0.5
    assert metrics.keyword_fraction("adam lovelaces", "Ada Lovelace") == 1.0  # substrings count, as published
    assert metrics.keyword_fraction("", "Ada Lovelace") == 0.0


def test_one_sample_has_a_mean_and_no_interval() -> None:
    from meap_megatron.evaluation.run import table
    from meap_megatron.evaluation.statistics import summary

    assert summary([0.5]) == {"n": 1, "mean": 0.5}
    assert {"stderr", "low", "high"} < set(summary([0.0, 1.0]))
    task = {"task": "needle", "metrics": {"recall": summary([0.5])}, "sources": [], "unfit": 0, "samples": 1}
    lines = table({"suite": "needle", "samples": 1, "seconds": 2.0, "tasks": [task], "headline": {}}).splitlines()
    assert lines[0] == "needle: 1 sample in 2.0 s" and lines[1].endswith(" recall 50.00")
