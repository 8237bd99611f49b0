"""The drawn sample."""

import xml.etree.ElementTree as ET

import pytest

from meap_megatron.demo.sample import Cell, cells, readable_window
from meap_megatron.demo.sample_html import sample_boxes, visible


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
    drawn = sample_boxes(sample)
    assert drawn.count("is-masked") == 1
    assert 'title="hidden: &lt;b&gt;">[MASK]</span><span class="out">c</span>' in drawn
    ET.fromstring(drawn)


def test_the_window_is_the_part_with_the_most_words():
    sample = [Cell(text=text, label="", masked=False) for text in ["(", ")", "a", "b", "=", "c"]]
    assert [cell.text for cell in readable_window(sample, 2)] == ["a", "b"]
    assert readable_window(sample, 99) == sample
