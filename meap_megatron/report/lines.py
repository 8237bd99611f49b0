"""Line charts as inline SVG, in the colours of the style sheet. Pure functions of points."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Points = list[tuple[float, float]]
"""(x, y) pairs, ascending in x."""

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 28, 38


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart."""

    label: str
    points: Points
    style: str
    """CSS class of the stroke: s0 to s7."""
    dots: bool = False
    """Mark every point, for lines of few points."""


def ticks(low: float, high: float, *, count: int) -> list[float]:
    """Return round numbers inside [low, high], at most about `count` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten inside [low, high]; only the powers where these are too many."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
    return found if len(found) < 9 else [10.0**power for power in powers if low <= 10.0**power]


def line_chart(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    title: str,
    top: float | None = None,
    log: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Return a chart with a legend as HTML.

    Args:
        curves: drawn in this order; with steps ascending.
        x_label: unit of the horizontal axis.
        y_label: unit of the vertical axis.
        title: read out by screen readers.
        top: let the vertical axis run from 0 to this, or to the highest value if that is above it; None: over the values.
        log: draw the vertical axis in powers of ten; all values must be above 0.
        marks: (x, what it says) of vertical lines.
    """
    values = [y for curve in curves for _, y in curve.points]
    steps = [x for curve in curves for x, _ in curve.points]
    if not values:
        return '<p class="note">no values were recorded</p>'
    level = math.log10 if log else float
    low, high, last = level(min(values)), level(max(values)), max(steps)
    margin = 0.05 * (high - low) or 0.5
    low, high, first = low - margin, high + margin, 0.0
    if top is not None:
        low, high = 0.0, max(top, high)

    def x_of(step: float) -> float:
        return LEFT + (step - first) / max(last - first, 1e-9) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return TOP + (high - level(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for value in log_ticks(10**low, 10**high) if log else ticks(low, high, count=6):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{value:,g}</text>')
    for step in ticks(first, last, count=6):
        parts.append(
            f'<text class="tick" x="{x_of(step):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{step:g}</text>'
        )
    parts.append(
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{html.escape(x_label)}</text>'
    )
    parts.append(f'<text class="tick" x="2" y="12">{html.escape(y_label)}</text>')
    parts += [
        f'<line class="mark" x1="{x_of(x):.1f}" x2="{x_of(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
        f"<title>{html.escape(said)}</title></line>"
        for x, said in marks
        if first <= x <= last
    ]
    for curve in curves:
        parts.append(polyline(curve.points, x_of, y_of, curve.style))
        if curve.dots:
            parts += [
                f'<circle class="{curve.style}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.2">'
                f"<title>{html.escape(curve.label)}, {x_label} {x:g}: {y:.3f}</title></circle>"
                for x, y in curve.points
            ]
    parts.append("</svg>")
    keys = "".join(f'<span class="key {curve.style}">{html.escape(curve.label)}</span>' for curve in curves)
    return f'<div class="legend">{keys}</div>{"".join(parts)}'


def polyline(points: Points, x_of: Callable[[float], float], y_of: Callable[[float], float], style: str) -> str:
    """Return one line; `x_of` and `y_of` turn step and value into places."""
    places = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{places}"/>'
