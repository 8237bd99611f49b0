"""What was run: models, tasks, versions, and what keeps runs from being comparable. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.history import read_results
from meap_megatron.report.tables import NOTHING, PageTable, Row, TableCell


def models_of(run: ReportedRun) -> dict[str, dict[str, Any]]:
    """Return fingerprint -> document, of the models that a run's documents are of."""
    return {content["model"]["fingerprint"]: content for content in run.documents.values()}


def parameters(count: int | None) -> str:
    """Return a number of parameters as 1.18B, 122M or 43K."""
    if count is None:
        return "unknown"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def described(run: ReportedRun) -> str:
    """Return a run's label with its size and, where its training is known, the share of inputs that was masked."""
    known = [
        parameters(content["model"]["parameters"])
        for content in models_of(run).values()
        if content["model"].get("parameters")
    ][:1]
    ratio = read_results(run.metrics).settings.get("meap_mask_ratio") if run.metrics else None
    if ratio is not None:
        shown = f"{ratio:g}" if isinstance(ratio, (int, float)) else ratio
        known.append(f"mask ratio {shown}" if ratio else "nothing masked")
    return f"{run.label} ({', '.join(known)})" if known else run.label


def models_table(runs: Sequence[ReportedRun]) -> PageTable:
    """Return one row for every model."""
    rows = []
    for run in runs:
        for content in models_of(run).values():
            template = any((found.get("chat_template") or {}).get("applied") for found in run.documents.values())
            asked = "asked through its chat template" if template else "asked in plain text"
            model = {**content["model"], "tokenizer": content["tokenizer"], "bos": content["bos"]}
            rows.append(_model_row(run.label, model, asked, run.documents))
        # The attention suites compare with a second model.
        pairs = {name: content["baseline"] for name, content in run.documents.items() if content.get("baseline")}
        for fingerprint in dict.fromkeys(model["fingerprint"] for model in pairs.values()):
            suites = [name for name, model in pairs.items() if model["fingerprint"] == fingerprint]
            rows.append(_model_row(f"{run.label}: NTP model", pairs[suites[0]], "", suites))
    headings = ["", "model", "weights", "tokenizer", "prompts", "precision", "longest", "suites"]
    return PageTable(headings=headings, parts=[("", rows, "ours")], kind="left")


def _model_row(label: str, model: Mapping[str, Any], asked: str, suites: Sequence[str] | Mapping[str, Any]) -> Row:
    limit, bos = model.get("max_length"), model["bos"]
    begins = f"{'BOS' if bos['add_bos'] else 'no BOS'} ({bos['source']})"
    return [
        label,
        f"{model.get('architecture', '')}, {parameters(model.get('parameters'))}",
        TableCell(text=model["fingerprint"][:12], style="code"),
        TableCell(text=model["tokenizer"]["fingerprint"][:12], style="code"),
        f"{begins}, {asked}" if asked else begins,
        f"{model.get('dtype', '')}, {model.get('device', '')}",
        NOTHING if limit is None else f"{limit:,}",
        ", ".join(suites),
    ]


def warnings(runs: Sequence[ReportedRun]) -> Iterator[str]:
    """Yield what a reader must know before comparing: models mixed, other questions, other BOS, samples left out."""
    for run in runs:
        if len(models_of(run)) > 1:
            yield f"{run.label}: its suites were run on {len(models_of(run))} different models."
    asked: dict[str, set[str]] = {}
    for run in runs:
        for content in run.documents.values():
            for task in content["tasks"]:
                asked.setdefault(task["task"], set()).add(task["prompts_sha256"])
    if other := [task for task, prompts in asked.items() if len(prompts) > 1]:
        yield (
            f"The runs did not answer the same questions in {listed(other)}: other data, tokenizer, chat template, seed, "
            "lengths or limits."
        )
    if len({content["bos"]["add_bos"] for run in runs for content in run.documents.values()}) > 1:
        yield "Some prompts begin with BOS and some without: see the table of models."
    unfit = [
        f"{run.label} {name} {content['unfit']:,} of {content['samples']:,}"
        for run in runs
        for name, content in run.documents.items()
        if content.get("unfit")
    ]
    if unfit:
        yield f"Samples that do not fit the model are counted and not scored: {listed(unfit)}."


def listed(names: Sequence[str]) -> str:
    """Return the first six of a list, and how many more there are."""
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + rest


def tasks_table(runs: Sequence[ReportedRun]) -> PageTable:
    """Return one row for every task of every run: samples, data, prompts."""
    parts: list[tuple[str, Sequence[Row], str]] = []
    for run in runs:
        rows = [
            [
                task["task"],
                str(task["version"]),
                f"{task['samples']:,}",
                f"{task['unfit']:,}",
                str(content.get("seed", content["settings"].get("seed", ""))),
                ", ".join(task.get("sources") or []) or name,
                TableCell(text=task["prompts_sha256"][:12], style="code"),
            ]
            for name, content in run.documents.items()
            for task in content["tasks"]
        ]
        parts.append((run.label, rows, "ours"))
    headings = ["task", "version", "samples", "did not fit", "seed", "data", "prompts"]
    return PageTable(title="Tasks and samples", headings=headings, parts=parts, kind="left")


def versions_table(runs: Sequence[ReportedRun]) -> PageTable:
    """Return one row for every document: when, how long, which commit, libraries and settings."""
    rows = []
    for run in runs:
        for name, content in run.documents.items():
            chosen = ", ".join(f"{key} {value}" for key, value in content["settings"].items() if value is not None)
            rows.append(
                [
                    f"{run.label}, {name}",
                    content.get("created", ""),
                    f"{content.get('seconds', 0):,.0f} s",
                    TableCell(text=(content.get("git_commit") or "unknown")[:12], style="code"),
                    ", ".join(f"{library} {version}" for library, version in content["versions"].items()),
                    chosen[:400],
                ]
            )
    headings = ["", "created", "time", "commit", "versions", "settings"]
    return PageTable(title="Versions and settings", headings=headings, parts=[("", rows, "ours")], kind="left")
