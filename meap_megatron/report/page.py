"""The report: one HTML file without anything to load, made from `templates/page.html`."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

from meap_megatron.atomic import disk_errors, replace_text
from meap_megatron.errors import UserError, counted
from meap_megatron.report import charts, conditions, training
from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.measures import measures_tables
from meap_megatron.report.tables import PageTable, paper_tables
from meap_megatron.report.verdicts import all_verdicts
from meap_megatron.version import __version__


def environment(*packages: str) -> Environment:
    """Return the templates of the report, with those of other packages; text is escaped wherever it goes into HTML."""
    loaders = [PackageLoader(package) for package in (*packages, "meap_megatron.report")]
    made = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    made.globals.update(colour=charts.colour, tokens=charts.tokens)
    return made


def build_page(
    runs: Sequence[ReportedRun],
    *,
    baseline: ReportedRun | None = None,
    title: str = "MEAP evaluation",
    remark: str = "",
    before: str = "",
    after: str = "",
) -> str:
    """Return the page.

    Args:
        runs: in the order of rows and colours.
        baseline: the run that the others are compared with.
        title: of the page.
        remark: what a reader must know of these runs, above everything else.
        before: sections above the results, as HTML.
        after: sections beneath the results, as HTML.
    """
    evaluated, trained = [run for run in runs if run.documents], [run for run in runs if run.metrics]
    content: dict[str, Any] = {}
    if evaluated:
        other = [run for run in evaluated if run is not baseline]
        reference = baseline if other else None
        suites = all_verdicts(evaluated, reference)
        results, absent = suite_parts(evaluated, reference)
        content = {
            "baseline": reference,
            "compared": conditions.listed(list(map(conditions.described, other))),
            "described": conditions.described,
            "suites": suites,
            "count": sum(verdict.baseline is not None for suite in suites for verdict in suite.verdicts),
            "warnings": list(conditions.warnings(evaluated)),
            "models": conditions.models_table(evaluated),
            "results": results,
            "absent": absent,
            "details": [conditions.tasks_table(evaluated), conditions.versions_table(evaluated)],
        }
    if trained:
        content |= {
            "training": training.summary_table(runs),
            "curves": training.curves_of(runs),
            "efficiency": training.efficiency(runs),
        }
    parts = [counted(len(evaluated), "evaluated model")] if evaluated else []
    parts += [counted(len(trained), "training run")] if trained else []
    lead = f"{' and '.join(parts)}, by meap_megatron {__version__}."
    template = environment().get_template("page.html")
    return template.render(
        title=title, remark=remark, lead=lead, before=Markup(before), after=Markup(after), **content
    )


def suite_parts(
    runs: Sequence[ReportedRun], baseline: ReportedRun | None
) -> tuple[dict[str, dict[str, Any]], list[PageTable]]:
    """Return suite -> its tables and figures, and the paper's tables of the suites that no run has."""
    suites = list(dict.fromkeys(suite for run in runs for suite in run.documents))
    known = paper_tables(runs, baseline)
    order = [*dict.fromkeys(table.suite for table in known), *suites]
    parts: dict[str, dict[str, Any]] = {}
    for suite in sorted(suites, key=order.index):
        own = [run for run in runs if suite in run.documents]
        tables = [table for table in known if table.suite == suite]
        pictures = [(run.label, run.folders[suite] / f"{suite}.png") for run in own]
        maps = [(run.label, run.documents[suite]["cells"]) for run in own] if suite == "needle" else []
        parts[suite] = {
            "tables": tables or measures_tables(own, suite),
            "charts": charts.suite_charts(runs, suite),
            "maps": [(label, cells) for label, cells in maps if cells],
            "pictures": [
                (label, base64.b64encode(path.read_bytes()).decode())
                for label, path in pictures
                if suite in ("attention", "regions") and path.is_file()
            ],
        }
    return parts, [table for table in known if table.suite not in suites and "not in the paper" not in table.title]


def default_baseline(runs: Sequence[ReportedRun], named: str | None) -> ReportedRun | None:
    """Return the run called `named`, or the only evaluated one with "ntp" in its name, or the first evaluated one.

    Raises:
        UserError: no run has this name.
    """
    if named is not None:
        found = next((run for run in runs if run.label == named), None)
        if found is None:
            raise UserError(f"--baseline {named}: the runs are {', '.join(run.label for run in runs)}")
        return found
    evaluated = [run for run in runs if run.documents]
    like = [run for run in evaluated if "ntp" in run.label.lower()]
    return like[0] if len(like) == 1 else next(iter(evaluated), None)


def write(runs: Sequence[ReportedRun], path: Path, **content: Any) -> None:
    """Write the page, complete or not at all; `content` is that of `build_page`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, build_page(runs, **content))
