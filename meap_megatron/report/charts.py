"""Heat maps and curves as inline SVG, in the colours of the page. Pure functions of results documents."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.lines import Curve, line_chart
from meap_megatron.report.style import SERIES
from meap_megatron.report.tables import escape

LOW, MIDDLE, HIGH = (214, 72, 59), (252, 224, 144), (62, 145, 92)
"""Colours of 0, 50 and 100 per cent."""


def series(number: int) -> str:
    """Return the CSS class of the n-th line."""
    return f"s{number % SERIES}"


def colour(share: float) -> str:
    """Return the colour of a share between red (0) and green (1)."""
    first, second, place = (LOW, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, HIGH, 2 * share - 1)
    return "#" + "".join(f"{round(a + (b - a) * place):02x}" for a, b in zip(first, second, strict=True))


def tokens(count: int) -> str:
    """Return a length as 4K or 1,500."""
    return f"{count // 1024}K" if count % 1024 == 0 else f"{count:,}"


def score_top(curves: Sequence[Curve]) -> float:
    """Return where an axis of scores in per cent ends: at 10, 25, 50 or 100, so that it shows how far there is to go."""
    highest = max((y for curve in curves for _, y in curve.points), default=0.0)
    return next(top for top in (10.0, 25.0, 50.0, 100.0) if highest <= top or top == 100.0)


def heat_map(run: ReportedRun) -> str:
    """Return the needle's grid of a run: depth down, length across; what does not fit stays grey."""
    content = run.documents["needle"]
    cells = content["cells"]
    lengths, depths = (sorted({cell[name] for cell in cells}) for name in ("length", "depth"))
    wide, high, left, top = 38, 22, 44, 20
    width, height = left + wide * len(lengths) + 4, top + high * len(depths) + 36
    label = f"needle in a haystack, {run.label}"
    parts = [
        f'<svg viewBox="0 0 {width} {height}" style="width:{1.15 * width:.0f}px;max-width:100%" role="img" '
        f'aria-label="{escape(label)}">'
    ]
    for cell in cells:
        x, y = float(left + wide * lengths.index(cell["length"])), top + high * depths.index(cell["depth"])
        mean = cell["mean"]
        fill = "var(--line)" if mean is None else colour(mean)
        said = "does not fit" if mean is None else f"{100 * mean:.1f} %, {cell['n']} samples"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{wide - 1}" height="{high - 1}" fill="{fill}"><title>{tokens(cell["length"])} '
            f"tokens, depth {cell['depth']:g} %: {said}</title></rect>"
        )
        if mean is not None:
            parts.append(
                f'<text class="cell" x="{x + wide / 2 - 0.5}" y="{y + high / 2 + 3.5}">{100 * mean:.0f}</text>'
            )
    for depth in depths:
        middle = top + high * depths.index(depth) + high / 2 + 3.5
        parts.append(f'<text class="tick" x="{left - 6}" y="{middle}" text-anchor="end">{depth:g}</text>')
    for length in lengths:
        x = left + wide * lengths.index(length) + wide / 2
        parts.append(f'<text class="tick" x="{x}" y="{height - 22}" text-anchor="middle">{tokens(length)}</text>')
    parts.append(f'<text class="tick" x="{width - 4}" y="{height - 6}" text-anchor="end">length (tokens)</text>')
    parts.append('<text class="tick" x="0" y="11">depth (%)</text></svg>')
    return "".join(parts)


def position_curves(runs: Sequence[ReportedRun], suite: str) -> list[tuple[str, str]]:
    """Return (title, chart) for each number of documents or keys: score against the place of what is asked for."""
    field, unit = ("num_documents", "documents") if suite == "mdqa" else ("num_keys", "keys")
    return panels(
        runs,
        suite,
        field=field,
        title=lambda size: f"{size} {unit}" if size > 1 else "",
        x_of=lambda cell: cell["gold_index"] + 1,
        x_label="place of the gold document" if suite == "mdqa" else "place of the key",
        y_label="correct (%)",
    )


def needle_counts(runs: Sequence[ReportedRun]) -> list[tuple[str, str]]:
    """Return (title, chart) for each number of needles: M-RS score against the length."""
    return panels(
        runs,
        "mrs",
        field="num_needles",
        title=lambda count: f"{count} needles",
        x_of=lambda cell: cell["length"] / 1024,
        x_label="length (1,024 tokens)",
        y_label="expected words found (%)",
    )


def panels(
    runs: Sequence[ReportedRun],
    suite: str,
    *,
    field: str,
    title: Callable[[int], str],
    x_of: Callable[[Mapping[str, Any]], float],
    x_label: str,
    y_label: str,
) -> list[tuple[str, str]]:
    """Return (title, chart) for each value of a field of a suite's cells, all with the same vertical axis.

    Args:
        runs: one line for each that has the suite.
        suite: whose cells are drawn.
        field: of the cells; one chart for each of its values.
        title: of a value's chart; "" draws none.
        x_of: the place of a cell on the horizontal axis.
        x_label: of that axis.
        y_label: of the score.
    """
    present = [(number, run) for number, run in enumerate(runs) if suite in run.documents]
    found: dict[int, list[Curve]] = {}
    for value in sorted({cell[field] for _, run in present for cell in run.documents[suite]["cells"]}):
        curves = [
            Curve(
                label=run.label,
                points=[
                    (x_of(cell), 100 * cell["mean"])
                    for cell in run.documents[suite]["cells"]
                    if cell[field] == value and cell["mean"] is not None
                ],
                style=series(number),
                dots=True,
            )
            for number, run in present
        ]
        if title(value) and any(curve.points for curve in curves):
            found[value] = [curve for curve in curves if curve.points]
    top = score_top([curve for curves in found.values() for curve in curves])
    return [
        (title(value), line_chart(curves, x_label=x_label, y_label=y_label, title=title(value), top=top))
        for value, curves in found.items()
    ]


def picture(path: Path, *, title: str) -> str:
    """Return a PNG file as an image inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
