"""Training curves, and score against training (Figure 5). Pure functions of runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meap_megatron.formats import duration
from meap_megatron.report.charts import Chart, Curve, Points, score_top
from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.history import Results, read_results, smoothed
from meap_megatron.report.tables import NOTHING, PageTable, Row, number
from meap_megatron.report.values import Value, average, scores

MOST_POINTS = 400
SCORES = {
    "mdqa_20.mean": "MDQA, 20 documents, mean over the places",
    "mdqa_1@1": "nq-open-oracle",
    "needle.average": "needle, mean over the grid",
    "mrs.average": "M-RS, mean",
    "commonsense": "commonsense, mean acc",
}
"""Score -> title; the first is Figure 5's."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a training run took."""

    seconds: float
    """In steps; checkpoints and validation apart."""
    tokens: int


def effort(results: Results) -> Effort:
    """Return what a run took so far; a record may cover several steps."""
    seconds, last = 0.0, 0
    for record in results.steps:
        seconds += record["seconds"] * max(1, record["step"] - last)
        last = record["step"]
    return Effort(seconds=seconds, tokens=results.consumed_tokens)


def thin(points: Points) -> Points:
    """Return at most about `MOST_POINTS` points, the last one included."""
    stride = max(1, len(points) // MOST_POINTS)
    return [*points[:-1:stride], *points[-1:]]


def trained(runs: Sequence[ReportedRun]) -> list[tuple[int, ReportedRun, Results]]:
    """Return number, run and results of the runs that were trained."""
    return [(number, run, read_results(run.metrics)) for number, run in enumerate(runs) if run.metrics]


def curves_of(runs: Sequence[ReportedRun]) -> list[Chart]:
    """Return the charts of losses, gradient norm and throughput; those without values are left out."""
    found = trained(runs)

    def lines(field: str, *, smooth: bool = True) -> list[Curve]:
        return [
            Curve(
                label=run.label,
                points=thin(smoothed(points, window=max(1, len(points) // 50) if smooth else 1)),
                number=place,
            )
            for place, run, results in found
            if (points := results.points(field))
        ]

    def validations(field: str) -> list[Curve]:
        return [
            Curve(label=run.label, points=thin(points), number=place, dots=len(points) < 30)
            for place, run, results in found
            if (points := results.validation_points(field))
        ]

    marks = [
        (float(step), f"{run.label}: restart from step {step:,}")
        for _, run, results in found
        for step in results.restarts
    ]
    clean = "On clean inputs, unless the recipe says otherwise: arms are comparable."
    nats = "nats per token"
    charts = [
        ("Validation loss", clean, validations("lm_loss"), nats),
        ("Training loss", "On the inputs of each arm: masked inputs are harder.", lines("lm_loss"), nats),
        ("Loss at positions that read [MASK]", "The next token without the current one.", lines("masked_loss"), nats),
        ("Loss at other positions", "", lines("other_loss"), nats),
        ("Gradient norm", "Before clipping.", lines("grad_norm", smooth=False), "norm"),
        ("Throughput", "", lines("tokens_per_second"), "tokens per second"),
    ]
    return [
        Chart(
            title=title,
            note=note,
            curves=curves,
            x_label="step",
            y_label=unit,
            top=0.0 if unit == "tokens per second" else None,
            # A spike would flatten everything else.
            log=unit == "norm" and min(y for curve in curves for _, y in curve.points) > 0,
            marks=marks,
        )
        for title, note, curves, unit in charts
        if curves
    ]


def summary_table(runs: Sequence[ReportedRun]) -> PageTable:
    """Return one row for every training run."""
    rows: list[Row] = []
    for _, run, results in trained(runs):
        settings, planned = results.settings, results.train_steps
        last, ratio = results.steps[-1]["step"] if results.steps else 0, settings.get("meap_mask_ratio")
        rows.append(
            [
                run.label,
                f"{last:,} of {planned:,}" if planned else f"{last:,}",
                f"{results.consumed_tokens:,}",
                NOTHING if ratio is None else f"{ratio:g}" if isinstance(ratio, (int, float)) else str(ratio),
                number(results.final("lm_loss"), 3),
                number(results.validation_loss, 3),
                number(results.median("tokens_per_second"), 0),
                number(results.median("mfu"), 1, scale=100),
                duration(effort(results).seconds, digits=1),
                str(len(results.restarts)),
            ]
        )
    headings = ["", "steps", "tokens", "mask ratio", "loss", "validation", "tokens/s", "MFU (%)", "time in steps"]
    note = "Loss is the mean of the last tenth of the steps; tokens/s and MFU are medians; dashed lines are restarts."
    return PageTable(headings=[*headings, "restarts"], parts=[("", rows, "ours")], notes=[note])


def chosen_scores(run: ReportedRun) -> dict[str, Value]:
    """Return those scores of a run that Figure 5 may show."""
    found: dict[str, Any] = scores(run)
    columns = [value for name, value in found.items() if name.endswith(".acc")]
    found["commonsense"] = average(list(columns)) if columns else None
    return {name: found[name] for name in SCORES if found.get(name) is not None and found[name].mean is not None}


def family(label: str) -> str:
    """Return what joins the points of a line: NTP-1, NTP-2 and NTP-4 are NTP."""
    return re.sub(r"(?<=.)[-_ ]\d+$", "", label)


def efficiency(runs: Sequence[ReportedRun]) -> tuple[list[Chart], PageTable] | None:
    """Return scores against time and tokens of training; None unless runs with both were trained for different lengths."""
    points = [(run.label, effort(results), chosen_scores(run)) for _, run, results in trained(runs)]
    points = [(label, spent, found) for label, spent, found in points if found]
    if len({spent.tokens for _, spent, _ in points}) < 2:
        return None
    hours = max(spent.seconds for _, spent, _ in points) >= 7200
    scale, unit = (3600.0, "hours") if hours else (60.0, "minutes")
    names = [name for name in SCORES if any(name in found for _, _, found in points)]
    charts = []
    for name in names:
        for axis, divide, field in (
            (f"training time ({unit})", scale, "seconds"),
            ("tokens (millions)", 1e6, "tokens"),
        ):
            lines: dict[str, Points] = {}
            for label, spent, found in points:
                if name in found:
                    point = (getattr(spent, field) / divide, 100 * (found[name].mean or 0))
                    lines.setdefault(family(label), []).append(point)
            curves = [
                Curve(label=label, points=sorted(line), number=place, dots=True)
                for place, (label, line) in enumerate(lines.items())
            ]
            title = f"{SCORES[name]} against {axis}"
            charts.append(Chart(title=title, curves=curves, x_label=axis, y_label="score (%)", top=score_top(curves)))
    rows: list[Row] = [
        [
            label,
            duration(spent.seconds, digits=1),
            f"{spent.tokens:,}",
            *(
                f"{100 * (found[name].mean or 0):.2f}{found[name].mark}" if name in found else NOTHING
                for name in names
            ),
        ]
        for label, spent, found in sorted(points, key=lambda one: one[1].seconds)
    ]
    headings = ["", "time in steps", "tokens", *(f"{SCORES[name]} (%)" for name in names)]
    note = "Figure 5 shows MDQA with 20 documents for Llama-3-8B after n epochs; it prints no values."
    return charts, PageTable(headings=headings, parts=[("", rows, "ours")], notes=[note])
