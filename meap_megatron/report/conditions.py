"""What was run: models, tasks, versions, and what keeps runs from being comparable. Pure functions that return HTML."""

from collections.abc import Sequence
from typing import Any

from meap_megatron.report.collect import ReportedRun
from meap_megatron.report.tables import NOTHING, escape, table


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


def models_table(runs: Sequence[ReportedRun]) -> str:
    """Return one row for every model."""
    rows = []
    for run in runs:
        for content in models_of(run).values():
            tokenizer, bos = content["tokenizer"]["fingerprint"], content["bos"]
            rows.append(_model_row(run.label, content["model"], tokenizer, bos, ", ".join(run.documents)))
        # The attention suites compare with a second model.
        pairs = {name: content["baseline"] for name, content in run.documents.items() if content.get("baseline")}
        for fingerprint in dict.fromkeys(model["fingerprint"] for model in pairs.values()):
            suites = [name for name, model in pairs.items() if model["fingerprint"] == fingerprint]
            model = pairs[suites[0]]
            tokenizer = model["tokenizer"]["fingerprint"]
            rows.append(_model_row(f"{run.label}: NTP model", model, tokenizer, model["bos"], ", ".join(suites)))
    headings = ["", "model", "weights", "tokenizer", "prompts begin with", "precision", "longest", "suites"]
    return table(headings, [("", rows, "ours")], kind="left")


def _model_row(label: str, model: dict[str, Any], tokenizer: str, bos: dict[str, Any], suites: str) -> list[str]:
    limit = model.get("max_length")
    return [
        escape(label),
        escape(f"{model.get('architecture', '')}, {parameters(model.get('parameters'))}"),
        f"<code>{escape(model['fingerprint'][:12])}</code>",
        f"<code>{escape(tokenizer[:12])}</code>",
        escape(f"{'BOS' if bos['add_bos'] else 'no BOS'} ({bos['source']})"),
        escape(f"{model.get('dtype', '')}, {model.get('device', '')}"),
        NOTHING if limit is None else f"{limit:,}",
        escape(suites),
    ]


def warnings(runs: Sequence[ReportedRun]) -> list[str]:
    """Return what a reader must know before comparing: models mixed, other questions, other BOS, samples left out."""
    said = []
    for run in runs:
        if len(models_of(run)) > 1:
            said.append(f"{run.label}: its suites were run on {len(models_of(run))} different models.")
    asked: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for content in run.documents.values():
            for task in content["tasks"]:
                asked.setdefault(task["task"], {}).setdefault(task["prompts_sha256"], []).append(run.label)
    other = [task for task, groups in asked.items() if len(groups) > 1]
    if other:
        said.append(
            f"The runs did not answer the same questions in {listed(other)}: other data, tokenizer, seed, lengths or limits."
        )
    policies = {content["bos"]["add_bos"] for run in runs for content in run.documents.values()}
    if len(policies) > 1:
        said.append("Some prompts begin with BOS and some without: see the table of models.")
    unfit = [
        f"{run.label} {name} {content['unfit']:,} of {content['samples']:,}"
        for run in runs
        for name, content in run.documents.items()
        if content.get("unfit")
    ]
    if unfit:
        said.append(f"Samples that do not fit the model are counted and not scored: {listed(unfit)}.")
    return [f'<p class="warning">{escape(text)}</p>' for text in said]


def listed(words: Sequence[str]) -> str:
    """Return the first six words of a list, and how many more there are."""
    rest = f" and {len(words) - 6} more" if len(words) > 6 else ""
    return ", ".join(words[:6]) + rest


def tasks_table(runs: Sequence[ReportedRun]) -> str:
    """Return one row for every task of every run: samples, data, prompts."""
    parts = []
    for run in runs:
        rows = []
        for name, content in run.documents.items():
            for task in content["tasks"]:
                rows.append(
                    [
                        escape(task["task"]),
                        escape(task["version"]),
                        f"{task['samples']:,}",
                        f"{task['unfit']:,}",
                        escape(content.get("seed", content["settings"].get("seed", ""))),
                        escape(", ".join(task.get("sources") or []) or name),
                        f"<code>{escape(task['prompts_sha256'][:12])}</code>",
                    ]
                )
        parts.append((run.label, rows, "ours"))
    headings = ["task", "version", "samples", "did not fit", "seed", "data", "prompts"]
    return f"<details><summary>Tasks and samples</summary>{table(headings, parts, kind='left')}</details>"


def versions_table(runs: Sequence[ReportedRun]) -> str:
    """Return one row for every document: when, how long, which commit, libraries and settings."""
    rows = []
    for run in runs:
        for name, content in run.documents.items():
            versions = ", ".join(f"{library} {version}" for library, version in content["versions"].items())
            chosen = ", ".join(f"{key} {value}" for key, value in content["settings"].items() if value is not None)
            rows.append(
                [
                    escape(f"{run.label}, {name}"),
                    escape(content.get("created", "")),
                    f"{content.get('seconds', 0):,.0f} s",
                    f"<code>{escape((content.get('git_commit') or 'unknown')[:12])}</code>",
                    escape(versions),
                    escape(chosen[:400]),
                ]
            )
    headings = ["", "created", "time", "commit", "versions", "settings"]
    return f"<details><summary>Versions and settings</summary>{table(headings, [('', rows, 'ours')], kind='left')}</details>"
