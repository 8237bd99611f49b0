import numpy as np

from meap_megatron.corpus.display import ShownSample, histogram, table
from meap_megatron.corpus.terminal import visible

SAMPLE = ShownSample(
    tokens=[1, 3, 9, 2],
    unmasked=[1, 3, 4, 2],
    labels=[3, 4, 2, 1],
    changed=[False, False, True, False],
    trained=[True, True, True, False],
)
TEXTS = {"text_of": {1: "<s>", 2: "</s>", 3: "a", 4: "漢"}.__getitem__, "mask": (9, "[MASK]"), "edges": {1, 2}}


def test_a_sample_is_drawn_as_columns() -> None:
    assert list(table(SAMPLE, **TEXTS, colour=False)) == [
        "position  input                        id    label                         masked  loss",
        "       0  <s>                           1        3 a                       .       1",
        "       1  a                             3        4 漢                      .       1",
        "       2  [MASK] (漢)                   9        2 </s>                    masked  1",
        "       3  </s>                          2        1 <s>                     .       0",
    ]


def test_colour_marks_what_is_masked_and_changes_no_text() -> None:
    import re

    plain = list(table(SAMPLE, **TEXTS, colour=False))
    coloured = list(table(SAMPLE, **TEXTS, colour=True))
    assert [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in coloured] == plain
    assert "\x1b[30;43m[MASK]" in coloured[3] and "\x1b[30;43m" not in coloured[2]


def test_the_histogram_counts_every_document_once() -> None:
    lines = list(histogram(np.array([1, 2, 3, 3, 8, 15], dtype=np.int32)))
    assert [line.split() for line in lines[1:]] == [
        ["1", "1", "3.1%", "#" * 14],
        ["2", "to", "3", "3", "25.0%", "#" * 40],
        ["4", "to", "7", "0", "0.0%"],
        ["8", "to", "15", "2", "71.9%", "#" * 27],
    ]


def test_what_cannot_be_seen_is_written_as_an_escape() -> None:
    assert visible(" a\n\t\x1b[31m\u2028é漢") == "·a\\n\\t\\x1b[31m\\u2028é漢"
