"""Training curves, and score against training (Figure 5). Pure functions of runs that return HTML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meap_megatron.formats import duration
from meap_megatron.report.charts import score_top, series
from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.history import Results, read_results, smoothed
from meap_megatron.report.lines import Curve, Points, line_chart
from meap_megatron.report.tables import NOTHING, escape, table
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
    steps: int


def effort(results: Results) -> Effort:
    """Return what a run took so far; a record may stand for several steps."""
    seconds, last = 0.0, 0
    for record in results.steps:
        seconds += record["seconds"] * max(1, record["step"] - last)
        last = record["step"]
    return Effort(seconds=seconds, tokens=results.consumed_tokens, steps=results.num_steps)


def thin(points: Points) -> Points:
    """Return at most about `MOST_POINTS` points, the last one included."""
    stride = max(1, len(points) // MOST_POINTS)
    return [*points[:-1:stride], *points[-1:]]


def trained(runs: Sequence[ReportedRun]) -> list[tuple[int, ReportedRun, Results]]:
    """Return number, run and results of the runs that were trained."""
    return [(number, run, read_results(run.metrics)) for number, run in enumerate(runs) if run.metrics]


def curves_of(runs: Sequence[ReportedRun]) -> list[tuple[str, str, str]]:
    """Return (title, remark, chart) of losses, gradient norm and throughput; charts without values are left out."""
    found = trained(runs)

    def lines(field: str, *, smooth: bool = True) -> list[Curve]:
        made = []
        for number, run, results in found:
            if points := results.points(field):
                window = max(1, len(points) // 50) if smooth else 1
                made.append(Curve(label=run.label, points=thin(smoothed(points, window=window)), style=series(number)))
        return made

    validation = [
        Curve(label=run.label, points=thin(points), style=series(number), dots=len(points) < 30)
        for number, run, results in found
        if (points := results.validation_points())
    ]
    marks = [
        (float(step), f"{run.label}: restart from step {step:,}")
        for _, run, results in found
        for step in results.restarts
    ]
    nats, steps = "nats per token", "step"
    charts = [
        (
            "Validation loss",
            "On clean inputs, unless the recipe says otherwise: arms are comparable.",
            validation,
            nats,
        ),
        ("Training loss", "On the inputs of each arm: masked inputs are harder.", lines("lm_loss"), nats),
        ("Loss at positions that read [MASK]", "The next token without the current one.", lines("masked_loss"), nats),
        ("Loss at other positions", "", lines("other_loss"), nats),
        ("Gradient norm", "Before clipping.", lines("grad_norm", smooth=False), "norm"),
        ("Throughput", "", lines("tokens_per_second"), "tokens per second"),
    ]
    return [
        (
            title,
            note,
            line_chart(
                curves,
                x_label=steps,
                y_label=unit,
                title=title,
                top=0.0 if unit == "tokens per second" else None,
                # A spike would flatten everything else.
                log=unit == "norm" and min(y for curve in curves for _, y in curve.points) > 0,
                marks=marks,
            ),
        )
        for title, note, curves, unit in charts
        if curves
    ]


def summary_table(runs: Sequence[ReportedRun]) -> str:
    """Return one row for every training run."""
    rows = []
    for _, run, results in trained(runs):
        spent, settings = effort(results), results.settings
        ratio = settings.get("meap_mask_ratio")
        rows.append(
            [
                escape(run.label),
                f"{spent.steps:,} of {settings['train_iters']:,}"
                if settings.get("train_iters")
                else f"{spent.steps:,}",
                f"{spent.tokens:,}",
                NOTHING if ratio is None else f"{ratio:g}",
                _number(results.final("lm_loss"), 3),
                _number(results.validation_loss, 3),
                _number(results.median("tokens_per_second"), 0),
                _number(None if (mfu := results.median("mfu")) is None else 100 * mfu, 1),
                duration(spent.seconds, digits=1),
                str(len(results.restarts)),
            ]
        )
    headings = ["", "steps", "tokens", "mask ratio", "loss", "validation", "tokens/s", "MFU (%)", "time in steps"]
    headings.append("restarts")
    note = "Loss is the mean of the last tenth of the steps; tokens/s and MFU are medians; dashed lines are restarts."
    return f'{table(headings, [("", rows, "ours")])}<p class="note">{note}</p>'


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def chosen_scores(run: ReportedRun) -> dict[str, Value]:
    """Return those scores of a run that Figure 5 may show."""
    found: dict[str, Any] = scores(run)
    columns = [value for name, value in found.items() if name.endswith(".acc")]
    found["commonsense"] = average(list(columns)) if columns else None
    return {name: found[name] for name in SCORES if found.get(name) is not None and found[name].mean is not None}


def family(label: str) -> str:
    """Return what joins the points of a line: NTP-1, NTP-2 and NTP-4 are NTP."""
    return re.sub(r"(?<=.)[-_ ]\d+$", "", label)


def efficiency(runs: Sequence[ReportedRun]) -> list[tuple[str, str]]:
    """Return (title, HTML) of each score against time and tokens of training, over the runs that have both."""
    points = [(run, effort(results), chosen_scores(run)) for _, run, results in trained(runs)]
    parts = []
    for name, title in SCORES.items():
        own = [(run, spent, found[name]) for run, spent, found in points if name in found]
        if not own:
            continue
        families = list(dict.fromkeys(family(run.label) for run, _, _ in own))
        hours = max(spent.seconds for _, spent, _ in own) >= 7200
        scale, unit = (3600.0, "hours") if hours else (60.0, "minutes")
        charts = []
        for label, divide, field in (
            (f"training time ({unit})", scale, "seconds"),
            ("tokens (millions)", 1e6, "tokens"),
        ):
            curves = [
                Curve(
                    label=kind,
                    points=sorted(
                        (getattr(spent, field) / divide, 100 * (value.mean or 0))
                        for run, spent, value in own
                        if family(run.label) == kind
                    ),
                    style=series(number),
                    dots=True,
                )
                for number, kind in enumerate(families)
            ]
            chart = line_chart(
                curves, x_label=label, y_label="score (%)", title=f"{title} against {label}", top=score_top(curves)
            )
            charts.append(f'<div class="card">{chart}</div>')
        rows = [
            [
                escape(run.label),
                duration(spent.seconds, digits=1),
                f"{spent.tokens:,}",
                f"{100 * (value.mean or 0):.2f}{value.mark}",
            ]
            for run, spent, value in sorted(own, key=lambda one: one[1].seconds)
        ]
        listed = table(["", "time in steps", "tokens", "score (%)"], [("", rows, "ours")])
        parts.append((title, f'<div class="charts">{"".join(charts)}</div>{listed}'))
    return parts
