"""Suites that the paper does not have: a table by length, and one by task and metric. Pure functions of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from meap_megatron.evaluation.suites import SUITES
from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.tables import NOTHING, PageTable, Row, TableCell, shown
from meap_megatron.report.values import of_metric

MOST_COLUMNS = 9


def measures_tables(runs: Sequence[ReportedRun], suite: str) -> list[PageTable]:
    """Return the tables of a suite that all of these runs have."""
    heads = {
        run.label: {**run.documents[suite]["headline"], "effective_length": limits(run.documents[suite])}
        for run in runs
    }
    unit = "percent" if next(iter(heads.values())).get("percent", True) else "number"
    tables = [length_table(heads, suite)] if any(head.get("by_length") for head in heads.values()) else []
    found = {run.label: dict(columns(run.documents[suite], suite)) for run in runs}
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    rows: list[Row] = [
        [label, *(shown(of_metric(own[name]) if name in own else None, unit) for name in names)]
        for label, own in found.items()
    ]
    headings = ["", *names]
    if len(names) > max(MOST_COLUMNS, len(rows)):
        headings, rows = ["", *found], [[name, *(row[place + 1] for row in rows)] for place, name in enumerate(names)]
    title = f"{suite}: {SUITES[suite].summary}"
    return [*tables, PageTable(title="" if tables else title, headings=headings, parts=[("", rows, "ours")])]


def limits(content: Mapping[str, Any]) -> dict[str, int | None]:
    """Return threshold -> effective length (tokens) of a document; {} where it has none."""
    found = content.get("effective_length")
    if not found:
        return {}
    base = f"{100 * found['share']:g} % of base"
    return {f"{100 * found['threshold']:g} %": found["absolute"], base: found["relative"]}


def columns(content: Mapping[str, Any], suite: str) -> list[tuple[str, Any]]:
    """Return (name, metric) of a document: the suite's metric of each task, or all metrics of the only task."""
    tasks = content["tasks"]
    if len(tasks) == 1:
        return [(name.replace("_", " "), found) for name, found in tasks[0]["metrics"].items()]
    return [(task["task"].removeprefix("meap_"), task["metrics"].get(SUITES[suite].headline)) for task in tasks]


def length_table(heads: Mapping[str, Mapping[str, Any]], suite: str) -> PageTable:
    """Return the score at every length, and the effective lengths where results have them; `heads`: label -> headline."""
    lengths = sorted({int(length) for head in heads.values() for length in head.get("by_length") or ()})
    named = list(dict.fromkeys(name for head in heads.values() for name in head["effective_length"]))

    def score(head: Mapping[str, Any], length: int) -> TableCell:
        by_length = head.get("by_length") or {}
        return shown(of_metric({"mean": by_length[str(length)]}) if str(length) in by_length else None, "percent")

    def limit(head: Mapping[str, Any], name: str) -> TableCell:
        value = head["effective_length"].get(name)
        return NOTHING if value is None else TableCell(text=f"{value:,}")

    rows: list[Row] = [
        [label, *(score(head, length) for length in lengths), *(limit(head, name) for name in named)]
        for label, head in heads.items()
    ]
    notes = (
        ["Effective length: the longest one with this score, or this share of the score at the shortest."]
        if named
        else []
    )
    return PageTable(
        title=f"{suite}: {SUITES[suite].summary}",
        headings=["", *(f"{length:,} tokens" for length in lengths), *(f"effective, {name}" for name in named)],
        parts=[("", rows, "ours")],
        notes=notes,
    )
