"""The results of a sweep in the layout of the paper's tables, with the paper's numbers beside them.

A table in a sweep file:

    tables:
      - title: "Table 14: ..."
        columns:                     # heading -> task of the results; or task, metric and scale
          ARC-c: arc_challenge       # acc, and acc_norm where the task has it, as percent
          MDQA: {task: meap_nq_open_oracle, metric: best_subspan_em, scale: 1}
        average: [ARC-c]             # columns whose unweighted mean is shown; may be left out
        validation_loss: true        # the trainer's, as the last column; may be left out
        rows: columns                # arms side by side, as in Table 9; default: one line per arm
        paper: {"0.05": {ARC-c: 26.11}}

The paper mixes `acc` and `acc_norm` between tables and even between rows (protocol 2.1, 5a), so a table is shown once with
each, and averages are computed from the columns, never copied. What is missing is a dash, and so is an average over it.
"""

from dataclasses import dataclass
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.sweep.results import Scores

MISSING = "-"
TABLE_KEYS = ("title", "columns", "average", "validation_loss", "rows", "paper")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: which score, and how it is shown."""

    heading: str
    task: str
    metric: str | None
    """None: acc and acc_norm, in the two versions of the table."""
    scale: float
    """100: fractions are shown as percent."""

    def value(self, scores: Scores, metric: str) -> float | None:
        """Return the score in the column's unit: of its own metric, else of `metric`, falling back from acc_norm to acc."""
        names = [self.metric] if self.metric else [metric, *(["acc"] if metric == "acc_norm" else [])]
        found = next((scores[self.task, name] for name in names if (self.task, name) in scores), None)
        return None if found is None else found * self.scale


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a sweep file, checked."""

    title: str
    columns: list[Column]
    average: list[str]
    validation_loss: bool
    transposed: bool
    paper: dict[str, dict[str, float]]
    """Arm -> heading -> number of the paper."""


def read_table(table: Any, *, origin: str) -> Table:
    """Check a table of a sweep file.

    Raises:
        UserError: a key is unknown or missing; `origin` says in which file.
    """
    if not isinstance(table, dict) or not isinstance(table.get("columns"), dict):
        raise UserError(f"{origin}: a table is a mapping with {', '.join(TABLE_KEYS)}; got {table!r}")
    for key in table:
        if key not in TABLE_KEYS:
            raise UserError(f"{origin}: unknown key '{key}' in a table; it has {', '.join(TABLE_KEYS)}")
    columns = []
    for heading, spec in table["columns"].items():
        spec = {"task": spec} if isinstance(spec, str) else spec
        if (
            not isinstance(spec, dict)
            or not isinstance(spec.get("task"), str)
            or set(spec) - {"task", "metric", "scale"}
        ):
            raise UserError(f"{origin}: column '{heading}' names a task, or task, metric and scale; got {spec!r}")
        columns.append(
            Column(
                heading=str(heading),
                task=spec["task"],
                metric=spec.get("metric"),
                scale=float(spec.get("scale", 100)),
            )
        )
    average = [str(heading) for heading in table.get("average") or []]
    for heading in average:
        if heading not in {column.heading for column in columns}:
            raise UserError(f"{origin}: average over '{heading}', which is not a column")
    return Table(
        title=str(table.get("title", "")),
        columns=columns,
        average=average,
        validation_loss=bool(table.get("validation_loss")),
        transposed=table.get("rows") == "columns",
        paper={str(arm): numbers for arm, numbers in (table.get("paper") or {}).items()},
    )


def render(table: Table, scores: dict[str, Scores], losses: dict[str, float | None]) -> str:
    """Return a table as Markdown, once per metric where a column leaves it open.

    Args:
        scores: arm -> its scores, in the order of the rows.
        losses: arm -> validation loss.
    """
    is_open = any(column.metric is None for column in table.columns)
    parts = []
    for metric in ("acc", "acc_norm") if is_open else ("",):
        grid = grid_of(table, scores, losses, metric)
        title = f"{table.title} ({metric}{' where the task has it, else acc' if metric == 'acc_norm' else ''})"
        parts.append(f"**{title if is_open else table.title}**\n\n{markdown(grid)}")
    return "\n\n".join(parts)


def grid_of(table: Table, scores: dict[str, Scores], losses: dict[str, float | None], metric: str) -> list[list[str]]:
    """Return the cells of a table, headings first; ours and the paper's numbers follow each other."""
    names = [column.heading for column in table.columns]
    headings = [
        *names,
        *(["average"] if table.average else []),
        *(["validation loss"] if table.validation_loss else []),
    ]
    ours: dict[str, list[str]] = {}
    papers: dict[str, list[str]] = {}
    for arm, own in scores.items():
        ours[arm] = cells(table, {column.heading: column.value(own, metric) for column in table.columns})
        papers[arm] = cells(table, {name: table.paper.get(arm, {}).get(name) for name in names})
        if table.validation_loss:
            ours[arm].append(text(losses.get(arm), 1))
            papers[arm].append(MISSING)
    if table.transposed:
        grid = [["", *ours]]
        for index, heading in enumerate(headings):
            grid.append([heading, *(row[index] for row in ours.values())])
            grid.append([f"{heading}, paper", *(row[index] for row in papers.values())])
        return grid
    grid = [["arm", *headings]]
    for arm in ours:
        grid.append([arm, *ours[arm]])
        if arm in table.paper:
            grid.append([f"{arm}, paper", *papers[arm]])
    return grid


def cells(table: Table, values: dict[str, float | None]) -> list[str]:
    """Return one row's cells: the values, and their mean over the columns that the average is of."""
    row = [text(values[column.heading], column.scale) for column in table.columns]
    if not table.average:
        return row
    averaged = [values[heading] for heading in table.average]
    known = [value for value in averaged if value is not None]
    return [*row, text(sum(known) / len(known) if len(known) == len(averaged) else None, 100)]


def text(value: float | None, scale: float) -> str:
    """Return a number with two digits as percent, else with three, or a dash."""
    if value is None:
        return MISSING
    return f"{value:.2f}" if scale == 100 else f"{value:.3f}"


def markdown(grid: list[list[str]]) -> str:
    """Return cells as a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in grid
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
