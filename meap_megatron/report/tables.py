"""Tables in the shape of the paper's: our rows, then the paper's. Pure functions that return HTML."""

import html
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.values import Value, average, judged, scores

NOT_RUN = '<span class="absent">not run</span>'
UNFIT = '<span class="absent">does not fit</span>'
NOTHING = '<span class="absent">–</span>'


@cache
def paper() -> list[dict[str, Any]]:
    """Return the blocks of `paper.yaml`."""
    text = resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text)["blocks"])


def escape(value: object) -> str:
    """Return text for HTML."""
    return html.escape(str(value))


FEW = 100
"""Samples below which a cell says how many there were."""


def shown(value: Value | None, unit: str, *, best: bool = False, absent: str = NOT_RUN) -> str:
    """Return a score as a cell: per cent with two digits, or a fraction with three; its standard error beside it."""
    if value is None:
        return absent
    if value.mean is None:
        return UNFIT
    scale, digits = (100, 2) if unit == "percent" else (1, 3)
    number = f"{scale * value.mean:.{digits}f}"
    number = f"<b>{number}</b>" if best else number
    error = f" <small>±{scale * value.stderr:.{digits}f}</small>" if value.stderr is not None and value.n != 1 else ""
    # The error of a few samples says little, and one sample has none.
    few = f" <small>n = {value.n}</small>" if value.n is not None and value.n < FEW else ""
    return f"{number}{error}{few}{escape(value.mark)}"


def table(
    headings: Sequence[str], parts: Sequence[tuple[str, Sequence[Sequence[str]], str]], *, kind: str = ""
) -> str:
    """Return a table of HTML cells.

    Args:
        headings: of the columns, the first one of the row names; plain text.
        parts: (caption or "", rows of cells, CSS class of the rows).
        kind: CSS class of the table, if its columns are no numbers.
    """
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = []
    for caption, rows, style in parts:
        if caption:
            body.append(f'<tr class="caption"><td colspan="{len(headings)}">{escape(caption)}</td></tr>')
        body += [f'<tr class="{style}">{"".join(f"<td>{cell}</td>" for cell in row)}</tr>' for row in rows]
    inside = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    kind = kind or ("narrow" if len(headings) < 4 else "even" if len(headings) < 8 else "")
    return f'<div class="scroll"><table class="{kind}">{inside}</table></div>'


def block_rows(block: Mapping[str, Any], runs: Sequence[ReportedRun]) -> dict[str, list[Value | None]]:
    """Return row name -> our scores in the block's columns; one row for every run, of Table 4 for every judge."""
    columns = list(block["columns"].values())
    if block["id"] == "hallucination":
        rows: dict[str, list[Value | None]] = {}
        for run in runs:
            judges = judged(run)
            for judge, found in judges.items():
                rows[f"{run.label}, judge {judge}"] = [found.get(column) for column in columns]
            if not judges:
                rows[run.label] = [None] * len(columns)
        return rows
    own = {run.label: scores(run) for run in runs}
    rows = {label: [found.get(column) for column in columns] for label, found in own.items()}
    if block.get("average"):
        for label, values in rows.items():
            mean = average(values)
            if mean is not None and block["suite"] != "commonsense":
                # The same questions stand in all columns: their errors are not independent.
                mean = Value(mean=mean.mean, mark=mean.mark)
            rows[label] = [*values, mean]
    return rows


def headings_of(block: Mapping[str, Any]) -> list[str]:
    """Return the headings of a block's columns."""
    return [*map(str, block["columns"]), *(["average"] if block.get("average") else [])]


def best_of(rows: Mapping[str, Sequence[Value | None]]) -> list[float | None]:
    """Return the highest of our scores in every column, None where there are not two to compare."""
    found: list[float | None] = []
    for column in zip(*rows.values(), strict=True):
        means = [value.mean for value in column if value is not None and value.mean is not None]
        found.append(max(means) if len(means) > 1 and min(means) < max(means) else None)
    return found


def render(block: Mapping[str, Any], runs: Sequence[ReportedRun], baseline: ReportedRun | None) -> str:
    """Return a block as a table with its notes."""
    headings = ["", *headings_of(block)]
    if block.get("relative"):
        ours = relative_rows(block, runs, baseline)
    else:
        rows = block_rows(block, runs)
        best, floor = best_of(rows), headings_of(block)
        ours = [
            [
                escape(label),
                *(
                    shown(
                        value,
                        block["unit"],
                        best=value is not None and value.mean == top is not None and "floor" not in name,
                    )
                    for value, top, name in zip(values, best, floor, strict=True)
                ),
            ]
            for label, values in rows.items()
        ]
    parts: list[tuple[str, Sequence[Sequence[str]], str]] = [("This report", ours, "ours")]
    parts += [(part["caption"], paper_rows(part, block), "paper") for part in block["tables"]]
    notes = [*block["notes"]]
    if "*</td>" in (drawn := table(headings, parts)):
        notes.append(
            "* not the published data (synthetic distractors or generated samples): not comparable with the paper's numbers."
        )
    return drawn + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def paper_rows(part: Mapping[str, Any], block: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of one of the paper's tables; its averages are computed from the columns."""
    digits = part.get("decimals", 2)
    rows = []
    for label, row in part["rows"].items():
        values = list(row["values"])
        cells = [f"{value:.{digits}f}" for value in values]
        cells += [NOTHING] * (len(block["columns"]) - len(cells))
        if block.get("average"):
            printed = row.get("printed_average")
            dagger = "" if printed is None else f' <small title="the paper prints {printed}">†{printed:g}</small>'
            cells.append(f"{sum(values) / len(values):.2f}{dagger}")
        rows.append([escape(label), *cells])
    return rows


def relative_rows(
    block: Mapping[str, Any], runs: Sequence[ReportedRun], baseline: ReportedRun | None
) -> list[list[str]]:
    """Return each run's gain over the baseline, in per cent of it and in points."""
    columns = list(block["columns"].values())
    if baseline is None:
        return [["<i>no baseline: name one with --baseline LABEL</i>", *([NOT_RUN] * len(columns))]]
    base, rows = scores(baseline), []
    for run in runs:
        if run is baseline:
            continue
        own, cells = scores(run), []
        for column in columns:
            pair = own.get(column), base.get(column)
            if pair[0] is None or pair[1] is None:
                cells.append(NOT_RUN)
            elif pair[0].mean is None or pair[1].mean is None:
                cells.append(UNFIT)
            else:
                points = 100 * (pair[0].mean - pair[1].mean)
                share = f"{points / pair[1].mean:+.1f}" if pair[1].mean else "∞" if points else "0.0"
                cells.append(f"{share} <small>({points:+.1f})</small>{escape(pair[0].mark)}")
        rows.append([f"{escape(run.label)} over {escape(baseline.label)}", *cells])
    return rows or [["<i>only one run</i>", *([NOT_RUN] * len(columns))]]


def attention_table(runs: Sequence[ReportedRun]) -> str:
    """Return Table 10: Score Decay and Variance Increase at every length, ours and the paper's."""
    from meap_megatron.evaluation.attention.scores import PAPER

    # A document holds both models of its pair.
    ours = [row for run in runs for row in _attention_rows(run)] or [["", *([NOT_RUN] * 4)]]
    printed = [
        [
            f"T = {length:,}",
            *(_signed(found[key], key) for key in ("decay", "decay_t", "variance_increase", "variance_t")),
        ]
        for length, found in PAPER.items()
    ]
    headings = ["", "Score Decay (%)", "t", "Variance Increase (%)", "t"]
    note = (
        "The paper compares MEAP on masked input with NTP on clean input, which changes two things at once. Model: both "
        "read clean input. Input: MEAP on masked against MEAP on clean input. Paired t over sequences, MEAP − NTP."
    )
    drawn = table(headings, [("This report", ours, "ours"), ("Table 10: 1.1B, all p < 1e-6", printed, "paper")])
    return f'{drawn}<p class="note">{escape(note)}</p>'


def _attention_rows(run: ReportedRun) -> list[list[str]]:
    content = run.documents.get("attention")
    if content is None:
        return []
    names = {"table_10": "masked MEAP, clean NTP", "model": "model alone", "input": "input alone"}
    return [
        [
            f"{escape(run.label)}, T = {int(length):,}, {names.get(comparison, comparison)}",
            *(_signed(found.get(key), key) for key in ("decay", "decay_t", "variance_increase", "variance_t")),
        ]
        for length, comparisons in content["headline"]["by_length"].items()
        for comparison, found in comparisons.items()
    ]


def _signed(value: float | None, key: str) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2f}" if key.endswith("_t") else f"{100 * value:.2f}"


def regions_table(runs: Sequence[ReportedRun]) -> str:
    """Return Figure 6 and Tables 16 to 18: shares of attention, ours above the paper's for every text."""
    from meap_megatron.evaluation.attention.region_items import PAPER_SHARES, REGIONS

    titles = {
        "figure_6": "Figure 6: Eiffel Tower",
        "table_16": "Table 16: Great Wall",
        "table_17": "Table 17: relativity",
        "table_18": "Table 18: Colosseum",
    }
    documents = {run.label: run.documents["regions"] for run in runs if "regions" in run.documents}
    texts = dict.fromkeys(PAPER_SHARES)
    texts |= dict.fromkeys(cell["text"] for content in documents.values() for cell in content["cells"])
    parts: list[tuple[str, Sequence[Sequence[str]], str]] = []
    for text in texts:
        rows, count = [], 0
        for label, content in documents.items():
            cells = [cell for cell in content["cells"] if cell["text"] == text]
            for arm in dict.fromkeys(cell["arm"] for cell in cells):
                of_region = {cell["region"]: cell["mean"] for cell in cells if cell["arm"] == arm}
                shares = [f"{of_region[region]:.3f}" for region in REGIONS]
                rows.append([f"{escape(label)}: {arm.upper()} model", *shares])
            count = max([count, *(cell["n"] for cell in cells)])
        rows = rows or [["", *([NOT_RUN] * len(REGIONS))]]
        parts.append((titles.get(text, f"{count} templated items, mean"), rows, "ours"))
        printed = [
            [f"{arm.upper()}, paper", *(NOTHING if share is None else f"{share:.3f}" for share in shares_)]
            for arm, shares_ in PAPER_SHARES.get(text, {}).items()
        ]
        if printed:
            parts.append(("", printed, "paper"))
    note = (
        "Shares of the attention of the final token, summed over the tokens of each region, mean over layers and heads. "
        "Table 16 prints .80 for .080, and its first column repeats Figure 6's."
    )
    return f'{table(["", *REGIONS], parts)}<p class="note">{escape(note)}</p>'
