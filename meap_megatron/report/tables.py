"""Tables in the shape of the paper's: our rows, then the paper's. Pure functions; `templates/macros.html` draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.values import Value, average, judged, scores

FEW = 100
"""Samples below which a cell says how many there were."""


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """One cell of a table; one that is only text can be a string."""

    text: str
    small: str = ""
    """Beside the text, in small letters."""
    mark: str = ""
    """Behind both."""
    style: str = ""
    """CSS class: best, absent, better, worse or code."""


NOT_RUN, UNFIT, NOTHING = (TableCell(text=text, style="absent") for text in ("not run", "does not fit", "–"))
Row = Sequence[TableCell | str]


@dataclass(kw_only=True)
class PageTable:
    """A table with the notes beneath it."""

    headings: Sequence[str]
    """Of the columns, the first one of the row names."""
    parts: list[tuple[str, Sequence[Row], str]]
    """(caption or "", rows, CSS class of the rows)."""
    notes: Sequence[str] = ()
    kind: str = ""
    """CSS class; left if the columns are not numbers."""
    title: str = ""
    suite: str = ""

    def __post_init__(self) -> None:
        columns = len(self.headings)
        self.kind = self.kind or ("narrow" if columns < 4 else "even" if columns < 8 else "wide")


@cache
def paper() -> list[dict[str, Any]]:
    """Return the blocks of `paper.yaml`."""
    text = resources.files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text)["blocks"])


def shown(value: Value | None, unit: str, *, best: bool = False) -> TableCell:
    """Return a score as a cell: per cent with two digits, or a fraction with three; its standard error beside it."""
    if value is None:
        return NOT_RUN
    if value.mean is None:
        return UNFIT
    scale, digits = (100, 2) if unit == "percent" else (1, 3)
    small = [f"±{scale * value.stderr:.{digits}f}"] if value.stderr is not None and value.n != 1 else []
    if value.n is not None and value.n < FEW:
        # The error of a few samples says little, and one sample has none.
        small.append(f"n = {value.n}")
    text = f"{scale * value.mean:.{digits}f}"
    return TableCell(text=text, small=" ".join(small), mark=value.mark, style="best" if best else "")


def number(value: float | None, digits: int, *, scale: float = 1.0) -> TableCell:
    """Return a number as a cell, a dash where there is none."""
    return NOTHING if value is None else TableCell(text=f"{scale * value:,.{digits}f}")


def paper_tables(runs: Sequence[ReportedRun], baseline: ReportedRun | None) -> list[PageTable]:
    """Return all tables in the shape of the paper's, in its order."""
    blocks = [block_table(block, runs, baseline) for block in paper()]
    return [*blocks, attention_table(runs), regions_table(runs)]


def block_table(block: Mapping[str, Any], runs: Sequence[ReportedRun], baseline: ReportedRun | None) -> PageTable:
    """Return a block of `paper.yaml` as a table: our rows, then the paper's."""
    names = [*map(str, block["columns"]), *(["average"] if block.get("average") else [])]
    if block.get("relative"):
        ours = relative_rows(block, runs, baseline)
    else:
        rows = block_rows(block, runs)
        best = [
            None if "floor" in name else top
            for name, top in zip(names, map(best_of, zip(*rows.values(), strict=True)), strict=True)
        ]
        ours = [
            [label, *(shown(v, block["unit"], best=_is(v, top)) for v, top in zip(values, best, strict=True))]
            for label, values in rows.items()
        ]
    notes = list(block["notes"])
    if any(isinstance(cell, TableCell) and cell.mark.endswith("*") for row in ours for cell in row):
        notes.append(
            "* not the published data (synthetic distractors or generated samples): not comparable with the paper's numbers."
        )
    return PageTable(
        title=block["title"],
        suite=block["suite"],
        headings=["", *names],
        parts=[
            ("This report", ours, "ours"),
            *((part["caption"], paper_rows(part, block), "paper") for part in block["tables"]),
        ],
        notes=notes,
    )


def _is(value: Value | None, top: float | None) -> bool:
    return value is not None and top is not None and value.mean == top


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
                # All columns have the same questions: their errors are not independent.
                mean = Value(mean=mean.mean, mark=mean.mark)
            rows[label] = [*values, mean]
    return rows


def best_of(column: Sequence[Value | None]) -> float | None:
    """Return the highest of our scores in a column, None where there are not two to compare."""
    means = [value.mean for value in column if value is not None and value.mean is not None]
    return max(means) if len(means) > 1 and min(means) < max(means) else None


def paper_rows(part: Mapping[str, Any], block: Mapping[str, Any]) -> list[Row]:
    """Return the rows of one of the paper's tables; its averages are computed from the columns."""
    digits = part.get("decimals", 2)
    rows: list[Row] = []
    for label, row in part["rows"].items():
        values = list(row["values"])
        cells: list[TableCell | str] = [f"{value:.{digits}f}" for value in values]
        cells += [NOTHING] * (len(block["columns"]) - len(cells))
        if block.get("average"):
            printed = row.get("printed_average")
            mean = f"{sum(values) / len(values):.2f}"
            cells.append(TableCell(text=mean, small="" if printed is None else f"†{printed:g}"))
        rows.append([str(label), *cells])
    return rows


def relative_rows(block: Mapping[str, Any], runs: Sequence[ReportedRun], baseline: ReportedRun | None) -> list[Row]:
    """Return each run's gain over the baseline, in per cent of it and in points."""
    columns = list(block["columns"].values())
    if baseline is None or len(runs) < 2:
        return [["only one run", *([NOT_RUN] * len(columns))]]
    base = scores(baseline)

    def gain(value: Value | None, before: Value | None) -> TableCell:
        if value is None or before is None:
            return NOT_RUN
        if value.mean is None or before.mean is None:
            return UNFIT
        points = 100 * (value.mean - before.mean)
        share = f"{points / before.mean:+.1f}" if before.mean else "∞" if points else "0.0"
        return TableCell(text=share, small=f"({points:+.1f})", mark=value.mark)

    return [
        [f"{run.label} over {baseline.label}", *(gain(found.get(column), base.get(column)) for column in columns)]
        for run in runs
        if run is not baseline
        for found in [scores(run)]
    ]


def attention_table(runs: Sequence[ReportedRun]) -> PageTable:
    """Return Table 10: Score Decay and Variance Increase at every length, ours and the paper's."""
    from meap_megatron.evaluation.attention.scores import PAPER

    names = {"table_10": "masked MEAP, clean NTP", "model": "model alone", "input": "input alone"}

    def row(label: str, found: Mapping[str, Any]) -> Row:
        values = [(found.get(key), key) for key in ("decay", "decay_t", "variance_increase", "variance_t")]
        return [label, *(number(value, 2, scale=1 if key.endswith("_t") else 100) for value, key in values)]

    # A document holds both models of its pair.
    ours = [
        row(f"{run.label}, T = {int(length):,}, {names.get(comparison, comparison)}", found)
        for run in runs
        if "attention" in run.documents
        for length, comparisons in run.documents["attention"]["headline"]["by_length"].items()
        for comparison, found in comparisons.items()
    ]
    printed = [row(f"T = {length:,}", found) for length, found in PAPER.items()]
    return PageTable(
        title="Attention to masked tokens (Table 10)",
        suite="attention",
        headings=["", "Score Decay (%)", "t", "Variance Increase (%)", "t"],
        parts=[
            ("This report", ours or [["", *([NOT_RUN] * 4)]], "ours"),
            ("Table 10: 1.1B, all p < 1e-6", printed, "paper"),
        ],
        notes=[
            "The paper compares MEAP on masked input with NTP on clean input, which changes two things at once. Model: "
            "both read clean input. Input: MEAP on masked against MEAP on clean input. Paired t over sequences, MEAP − NTP."
        ],
    )


def regions_table(runs: Sequence[ReportedRun]) -> PageTable:
    """Return Figure 6 and Tables 16 to 18: shares of attention, ours above the paper's for every text."""
    from meap_megatron.evaluation.attention.figures import TITLES
    from meap_megatron.evaluation.attention.region_items import PAPER_SHARES, REGIONS

    documents = {run.label: run.documents["regions"]["cells"] for run in runs if "regions" in run.documents}
    texts = dict.fromkeys([*PAPER_SHARES, *(cell["text"] for cells in documents.values() for cell in cells)])
    parts: list[tuple[str, Sequence[Row], str]] = []
    for text in texts:
        rows: list[Row] = []
        count = 0
        for label, cells in documents.items():
            own = [cell for cell in cells if cell["text"] == text]
            count = max([count, *(cell["n"] for cell in own)])
            for arm in dict.fromkeys(cell["arm"] for cell in own):
                of_region = {cell["region"]: cell["mean"] for cell in own if cell["arm"] == arm}
                rows.append([f"{label}: {arm.upper()} model", *(f"{of_region[region]:.3f}" for region in REGIONS)])
        parts.append(
            (TITLES.get(text, f"{count} templated items, mean"), rows or [["", *([NOT_RUN] * len(REGIONS))]], "ours")
        )
        printed: list[Row] = [
            [f"{arm.upper()}, paper", *(number(share, 3) for share in shares)]
            for arm, shares in PAPER_SHARES.get(text, {}).items()
        ]
        if printed:
            parts.append(("", printed, "paper"))
    return PageTable(
        title="Attention to regions (Figure 6, Tables 16 to 18)",
        suite="regions",
        headings=["", *REGIONS],
        parts=parts,
        notes=[
            "Shares of the attention of the final token, summed over the tokens of each region, mean over layers and "
            "heads. Table 16 prints .80 for .080, and its first column repeats Figure 6's."
        ],
    )
