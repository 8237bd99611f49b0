"""The drawn sample."""

import xml.etree.ElementTree as ET

import pytest

from meap_megatron.demo.sample import Cell, cells, readable_window
from meap_megatron.demo.sections import visible
from meap_megatron.report.page import environment


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" def", "·def"),
        ("\n    ", "⏎·×4"),
        ("\n  x", "⏎··x"),
        ("        ", "·×8"),
        ("\t", "⇥"),
        ("\r\n", "⏎"),
        ("  ", "··"),
    ],
)
def test_white_space_of_a_token_is_visible(text, shown):
    assert visible(text) == shown


def test_a_masked_input_is_marked_and_its_text_is_the_label_before_it():
    texts = {5: "a", 6: "<b>", 7: "c", 8: "d", 2: "[MASK]"}
    sample = cells([5, 2, 7], [6, 7, 8], mask_id=2, text_of=texts.__getitem__)
    assert sample == [
        Cell(text="a", label="<b>", masked=False),
        Cell(text="<b>", label="c", masked=True),
        Cell(text="c", label="d", masked=False),
    ]
    drawn = (
        environment("meap_megatron.demo")
        .get_template("sections.html")
        .module.before(
            sample=[(visible(cell.text), visible(cell.label), cell.masked) for cell in sample], index=0, positions=3
        )
    )
    assert drawn.count('class="is-masked"') == 1
    assert 'title="hidden: &lt;b&gt;">[MASK]</code><code>c</code>' in drawn
    ET.fromstring(f"<div>{drawn}</div>")


def test_the_window_is_the_part_with_the_most_words():
    sample = [Cell(text=text, label="", masked=False) for text in ["(", ")", "a", "b", "=", "c"]]
    assert [cell.text for cell in readable_window(sample, 2)] == ["a", "b"]
    assert readable_window(sample, 99) == sample
