"""Charts and the drawn sample."""

import xml.etree.ElementTree as ET

import pytest

from meap_megatron.demo.figures import Curve, line_chart, sample_boxes, ticks, visible
from meap_megatron.demo.sample import Cell, cells, readable_window


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 600, [0, 100, 200, 300, 400, 500, 600]),
        (4.6, 8.4, [5, 6, 7, 8]),
        (0.0, 0.1, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert ticks(low, high, count=6) == expected


def test_a_chart_is_well_formed_and_a_higher_loss_stands_higher():
    chart = line_chart(
        [Curve(label="a < b", points=[(1, 8.0), (10, 4.0)], style="ntp", dots=True)],
        x_label="step",
        y_label="nats",
        title="a & b",
    )
    root = ET.fromstring(f"<div>{chart}</div>")
    points = root.find(".//polyline[@class='ntp']").get("points").split()
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x1 < x2 and y1 < y2
    assert [title.text for title in root.iter("title")] == ["a < b, step 1: 8.000", "a < b, step 10: 4.000"]


def test_a_chart_without_values_says_so():
    assert "no values" in line_chart([Curve(label="x", points=[], style="ntp")], x_label="", y_label="", title="")


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
