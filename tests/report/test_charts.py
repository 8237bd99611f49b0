"""Line charts."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from meap_megatron.report.charts import Chart, Curve, log_ticks, score_top, ticks
from meap_megatron.report.page import environment


def line_chart(curves: list[Curve], *, x_label: str = "", y_label: str = "", title: str = "", **more: Any) -> str:
    chart = Chart(curves=curves, x_label=x_label, y_label=y_label, title=title, **more)
    return str(environment().get_template("macros.html").module.line_chart(chart))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 600, [0, 100, 200, 300, 400, 500, 600]),
        (4.6, 8.4, [5, 6, 7, 8]),
        (0.0, 0.1, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (5.0, 5.0, [5.0]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_a_chart_is_well_formed_and_a_higher_loss_stands_higher() -> None:
    chart = line_chart(
        [Curve(label="a < b", points=[(1, 8.0), (10, 4.0)], number=0, dots=True)],
        x_label="step",
        y_label="nats",
        title="a & b",
    )
    root = ET.fromstring(f"<div>{chart}</div>")
    line = root.find(".//g[@class='s0']/polyline[@class='d0']")
    assert line is not None
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.get("points", "").split())
    assert x1 < x2 and y1 < y2
    assert [title.text for title in root.iter("title")] == ["a < b, step 1: 8.000", "a < b, step 10: 4.000"]


def test_a_chart_without_values_says_so() -> None:
    assert "no values" in line_chart([Curve(label="x", points=[], number=0)])


def test_on_a_logarithmic_axis_equal_factors_have_equal_distances_and_ticks_are_round() -> None:
    points = [(1.0, 0.5), (2.0, 5.0), (3.0, 50.0)]
    chart = line_chart([Curve(label="x", points=points, number=0)], log=True)
    line = ET.fromstring(f"<div>{chart}</div>").find(".//g/polyline")
    assert line is not None
    low, middle, high = (float(point.split(",")[1]) for point in line.get("points", "").split())
    assert low - middle == pytest.approx(middle - high, abs=0.11)
    assert low - middle > 50
    assert log_ticks(0.5, 50) == [0.5, 1, 2, 5, 10, 20, 50]
    assert log_ticks(0.02, 3000) == [0.1, 1, 10, 100, 1000]


@pytest.mark.parametrize(("highest", "top"), [(0.0, 10), (9.0, 10), (31.0, 50), (50.0, 50), (51.0, 100), (100.0, 100)])
def test_the_axis_of_scores_begins_at_0_and_ends_at_a_round_number(highest: float, top: float) -> None:
    assert score_top([Curve(label="x", points=[(1.0, 0.0), (2.0, highest)], number=0)]) == top
    chart = line_chart([Curve(label="x", points=[(1.0, 0.0), (2.0, 0.0)], number=0)], top=10.0)
    assert ">0<" in chart and ">10<" in chart


def test_twelve_lines_differ_in_colour_or_dashes_and_neighbours_in_both() -> None:
    curves = [Curve(label=str(number), points=[], number=number) for number in range(12)]
    looks = [(curve.colour, curve.dashes) for curve in curves]
    assert len(set(looks)) == 12
    assert all(one[0] != other[0] and one[1] != other[1] for one, other in zip(looks, looks[1:], strict=False))


def test_positions_in_the_context_are_drawn_in_powers_of_two() -> None:
    chart = Chart(
        title="",
        curves=[Curve(label="x", points=[(1, 5.0), (4, 4.0), (16, 3.0)], number=0)],
        x_label="",
        y_label="",
        log_x=True,
    )
    assert chart.x_ticks == [1, 4, 16]
    assert chart.x(4) - chart.x(1) == pytest.approx(chart.x(16) - chart.x(4))
