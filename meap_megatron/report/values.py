"""Our scores under the names that `paper.yaml` uses. Pure functions of results documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meap_megatron.evaluation.suites import SUITES
from meap_megatron.report.collect import ReportedRun

GRID_END = 32 * 1024
"""Tokens of the longest prompts of the paper's needle."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """One score."""

    mean: float | None
    """A fraction; None: no sample fits the model."""
    stderr: float | None = None
    n: int | None = None
    mark: str = ""
    """Behind the number: * for data that are not the published ones."""


def of_metric(found: Mapping[str, Any] | None) -> Value:
    """Return the value of one metric of a task."""
    if found is None:
        return Value(mean=None)
    return Value(mean=found["mean"], stderr=found.get("stderr"), n=found.get("n"))


def scores(run: ReportedRun) -> dict[str, Value]:
    """Return all scores of a run that are in tables with one number for each model."""
    found: dict[str, Value] = {}
    readers = {"commonsense": _commonsense, "needle": _needle, "mdqa": _by_place, "kv": _by_place, "mrs": _mrs}
    readers["hallucination"] = _summaries
    for suite, reader in readers.items():
        if suite in run.documents:
            found |= reader(run.documents[suite])
    return found


def _commonsense(content: dict[str, Any]) -> dict[str, Value]:
    found = {}
    for task in content["tasks"]:
        for metric in ("acc", "acc_norm"):
            own = task["metrics"].get(metric) or task["metrics"].get("acc")
            found[f"{task['task']}.{metric}"] = of_metric(own)
    return found


def _needle(content: dict[str, Any]) -> dict[str, Value]:
    head, metrics = content["headline"], content["tasks"][0]["metrics"]
    # A grid that ends elsewhere is another test than the paper's up to 32K, whose row is below.
    longest = max(map(int, head.get("by_length") or ()), default=GRID_END)
    mark = "" if longest == GRID_END else f" up to {longest:,} tokens"

    def value(name: str, metric: str, mark: str = "") -> Value:
        found = metrics.get(metric) or {}
        stderr = found.get("stderr") if name == "average" else None
        return Value(mean=head.get(name), stderr=stderr, n=found.get("n"), mark=mark)

    return {
        "needle.average": value("average", "rouge1_recall", mark),
        "needle.longest": Value(mean=head.get("longest"), mark=mark),
        "needle.published_needle": value("published_needle", "published_needle_recall"),
        "needle.no_needle": value("no_needle", "no_needle_recall"),
        "needle.strict_hit": of_metric(metrics.get("strict_hit")),
    }


def synthetic(task: Mapping[str, Any]) -> bool:
    """Return whether a task's data are not the published ones."""
    return any("synthetic" in source or "generated" in source for source in task.get("sources") or ())


def _by_place(content: dict[str, Any]) -> dict[str, Value]:
    found, suite = {}, content["suite"]
    for task in content["tasks"]:
        name = task["task"].removeprefix("meap_")
        key = "mdqa_1@1"
        if "_gold_at_" in name:
            number, place = name.split("_gold_at_")
            # The paper counts places from 1.
            key = f"{number}@{int(place) + 1}"
        value = of_metric(task["metrics"].get(SUITES[suite].headline))
        found[key] = Value(mean=value.mean, stderr=value.stderr, n=value.n, mark="*" if synthetic(task) else "")
    for number, mean in content["headline"].get("average", {}).items():
        found[f"{suite}_{number}.mean"] = Value(mean=mean)
    return found


def _mrs(content: dict[str, Any]) -> dict[str, Value]:
    head = content["headline"]
    mark = "*" if any(map(synthetic, content["tasks"])) else ""
    found = {f"mrs@{needles}": Value(mean=mean, mark=mark) for needles, mean in head.get("by_needles", {}).items()}
    return {**found, "mrs.average": Value(mean=head.get("average"), mark=mark)}


def _summaries(content: dict[str, Any]) -> dict[str, Value]:
    return {
        f"{task['task'].removeprefix('hallucination_')}.rougeL": of_metric(task["metrics"].get("rougeL_f1"))
        for task in content["tasks"]
    }


def judged(run: ReportedRun) -> dict[str, dict[str, Value]]:
    """Return judge -> data set -> accuracy; unparsed answers are marked behind the number."""
    content = run.documents.get("hallucination")
    found: dict[str, dict[str, Value]] = {}
    for judge, kinds in (content["headline"].get("judges") or {}).items() if content else ():
        found[judge] = {}
        for kind, value in kinds.items():
            mark = f" ({value['unparsed']} unparsed)" if value.get("unparsed") else ""
            found[judge][kind] = Value(mean=value["mean"], stderr=value.get("stderr"), n=value["n"], mark=mark)
    return found


def average(values: list[Value | None]) -> Value | None:
    """Return the unweighted mean of columns, with the error of independent samples; None where one is not there."""
    known = [value for value in values if value is not None and value.mean is not None]
    if len(known) < len(values) or not known:
        return None
    means = [value.mean for value in known if value.mean is not None]
    errors = [value.stderr for value in known if value.stderr is not None]
    stderr = sum(error**2 for error in errors) ** 0.5 / len(known) if len(errors) == len(known) else None
    marks = {value.mark for value in known}
    return Value(mean=sum(means) / len(means), stderr=stderr, mark="*" if "*" in marks else "")
