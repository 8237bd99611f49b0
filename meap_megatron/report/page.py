"""The report: one HTML file without anything to load. Pure functions of runs, apart from the figures that are read."""

from collections.abc import Sequence
from pathlib import Path

from meap_megatron.errors import counted
from meap_megatron.report import charts, conditions, training
from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.style import CSS
from meap_megatron.report.tables import attention_table, escape, paper, regions_table, render
from meap_megatron.version import __version__


def build_page(
    runs: Sequence[ReportedRun],
    *,
    baseline: ReportedRun | None = None,
    title: str = "MEAP evaluation",
    remark: str = "",
) -> str:
    """Return the page.

    Args:
        runs: in the order of rows and colours.
        baseline: the run that Table 3 compares the others with.
        title: of the page.
        remark: what a reader must know of these runs, above everything else.
    """
    evaluated = [run for run in runs if run.documents]
    sections = [f"<h1>{escape(title)}</h1>", f'<p class="lead">{escape(lead(runs))}</p>']
    if remark:
        sections.append(f'<p class="warning">{escape(remark)}</p>')
    if evaluated:
        sections += ["<h2>Models</h2>", conditions.models_table(evaluated), *conditions.warnings(evaluated)]
        sections += evaluation_sections(evaluated, baseline)
    if any(run.metrics for run in runs):
        sections += ["<h2>Training</h2>", training.summary_table(runs), cards(training.curves_of(runs))]
    if found := training.efficiency(runs):
        sections.append("<h2>Training efficiency (Figure 5)</h2>")
        sections.append(
            '<p class="note">Figure 5 shows MDQA with 20 documents for Llama-3-8B after n epochs; it prints no values.</p>'
        )
        sections += [f"<h3>{escape(name)}</h3>{drawn}" for name, drawn in found]
    if evaluated:
        sections += [
            "<h2>Runs in detail</h2>",
            conditions.tasks_table(evaluated),
            conditions.versions_table(evaluated),
        ]
    body = "\n".join(sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def lead(runs: Sequence[ReportedRun]) -> str:
    """Return the sentence beneath the title."""
    evaluated, trained = sum(bool(run.documents) for run in runs), sum(bool(run.metrics) for run in runs)
    parts = [f"{counted(evaluated, 'evaluated model')}"] if evaluated else []
    parts += [f"{counted(trained, 'training run')}"] if trained else []
    text = f"{' and '.join(parts)}, by meap_megatron {__version__}."
    if evaluated:
        text += (
            " The paper's numbers (arXiv 2502.07490) stand beneath ours, of models of the paper's sizes; ± is one standard "
            "error over samples. Bold is the highest of our scores."
        )
    return text


def evaluation_sections(runs: Sequence[ReportedRun], baseline: ReportedRun | None) -> list[str]:
    """Return the tables and figures of all suites; tables without any result of ours fold up at the end."""
    here: list[tuple[str, str]] = []
    absent: list[tuple[str, str]] = []
    suites = {suite for run in runs for suite in run.documents}
    for block in paper():
        drawn = f"<h3>{escape(block['title'])}</h3>{render(block, runs, baseline)}"
        if block["suite"] in suites:
            here.append((block["suite"], drawn))
        elif "not in the paper" not in block["title"]:
            absent.append((block["suite"], drawn))
    for suite, title, drawer in (
        ("attention", "Attention to masked tokens (Table 10)", attention_table),
        ("regions", "Attention to regions (Figure 6, Tables 16 to 18)", regions_table),
    ):
        drawn = f"<h3>{escape(title)}</h3>{drawer(runs)}"
        (here if suite in suites else absent).append((suite, drawn))
    order = ["commonsense", "needle", "mdqa", "kv", "mrs", "hallucination", "attention", "regions"]
    sections = ["<h2>Results</h2>"]
    for suite in sorted({suite for suite, _ in here}, key=order.index):
        sections += [drawn for name, drawn in here if name == suite]
        sections.append(figures(suite, runs))
    if absent:
        inside = "".join(drawn for _, drawn in absent)
        sections.append(
            f"<details><summary>{len(absent)} tables of the paper that were not run</summary>{inside}</details>"
        )
    return sections


def figures(suite: str, runs: Sequence[ReportedRun]) -> str:
    """Return the figures of a suite."""
    own = [run for run in runs if suite in run.documents]
    if suite == "needle":
        maps = "".join(
            f'<div class="card"><h3>{escape(run.label)}</h3>{charts.heat_map(run)}</div>'
            for run in own
            if run.documents["needle"]["cells"]
        )
        return f'<div class="maps">{maps}</div>'
    if suite in ("mdqa", "kv"):
        return cards([(title, "", chart) for title, chart in charts.position_curves(runs, suite)])
    if suite == "mrs":
        return cards([(title, "", chart) for title, chart in charts.needle_counts(runs)])
    if suite in ("attention", "regions"):
        pictures = [(run, run.folders[suite] / f"{suite}.png") for run in own]
        return "".join(
            f'<div class="card"><h3>{escape(run.label)}</h3>{charts.picture(path, title=f"{suite}, {run.label}")}</div>'
            for run, path in pictures
            if path.is_file()
        )
    return ""


def cards(parts: Sequence[tuple[str, str, str]]) -> str:
    """Return charts side by side, each (title, remark, HTML)."""
    drawn = "".join(
        f'<div class="card"><h3>{escape(title)}</h3>{f"""<p class="note">{escape(note)}</p>""" if note else ""}{chart}</div>'
        for title, note, chart in parts
    )
    return f'<div class="charts">{drawn}</div>'


def default_baseline(runs: Sequence[ReportedRun], named: str | None) -> ReportedRun | None:
    """Return the run called `named`, or the only one with "ntp" in its name; None without one.

    Raises:
        UserError: no run has this name.
    """
    from meap_megatron.errors import UserError

    if named is not None:
        found = next((run for run in runs if run.label == named), None)
        if found is None:
            raise UserError(f"--baseline {named}: the runs are {', '.join(run.label for run in runs)}")
        return found
    like = [run for run in runs if run.documents and "ntp" in run.label.lower()]
    return like[0] if len(like) == 1 else None


def write(
    runs: Sequence[ReportedRun], path: Path, *, baseline: ReportedRun | None, title: str, remark: str = ""
) -> None:
    """Write the page, complete or not at all."""
    from meap_megatron.atomic import disk_errors, replace_text

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, build_page(runs, baseline=baseline, title=title, remark=remark))
