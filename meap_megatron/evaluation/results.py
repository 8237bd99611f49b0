"""The results document: one JSON file for every suite and run, and a line for every sample beside it."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meap_megatron.atomic import replace_text
from meap_megatron.errors import UserError
from meap_megatron.evaluation import identity
from meap_megatron.evaluation.effective_length import effective_length
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.statistics import average, by_cell, by_metric
from meap_megatron.evaluation.suites import SUITES, Request
from meap_megatron.formats import finite
from meap_megatron.version import git_commit

FORMAT = 1
HEADLINES = {"acc": ["Table 1", "Table 5", "Table 13", "Table 14", "Table 15"], "acc_norm": ["Table 6", "Table 15"]}
"""Metric of the commonsense tasks -> tables of the paper whose numbers are of this kind."""


def document(
    name: str,
    *,
    request: Request,
    session: Session,
    settings: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    found: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Return the results document of one suite.

    Args:
        found: `tasks` with task, version and metrics; more goes in as it is.
        seconds: duration of this run, without the loading of the model.
    """
    suite = SUITES[name]
    tasks = []
    for task in found["tasks"]:
        own = [record for record in records if record["task"] == task["task"]]
        unfit = sum(bool(record["metrics"].get("unfit")) for record in own)
        detail = by_metric(own, seed=request.seed)
        # What is aggregated otherwise than by a mean over samples has a value and no interval, or brings its own.
        extra = {
            key: value if isinstance(value, Mapping) else {"mean": value}
            for key, value in task["metrics"].items()
            if key not in detail and key != "unfit"
        }
        tasks.append(
            {
                "task": task["task"],
                "version": task["version"],
                "samples": len(own),
                "unfit": unfit,
                # Two runs with this hash in common asked the same questions: same data, tokenizer and settings.
                "prompts_sha256": identity.fingerprint({str(r["doc_id"]): r["prompt_sha256"] for r in own}),
                "sources": sorted({record["source"] for record in own if "source" in record}),
                "metrics": {**detail, **extra},
            }
        )
    # The needle's floor is not a cell of its figure.
    placed = [record for record in records if record.get("depth", 0) >= 0]
    cells = by_cell(placed, suite.cell, metric=suite.headline) if suite.cell else []
    return {
        "format": FORMAT,
        "suite": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "seed": request.seed,
        "samples": len(records),
        "unfit": sum(task["unfit"] for task in tasks),
        "model": {**session.model, "max_length": session.limit},
        "tokenizer": session.tokenizer,
        **session.prompts(suite),
        "settings": dict(settings),
        "headline": {"metric": suite.headline, **headline(name, tasks=tasks, cells=cells)},
        "tasks": tasks,
        "cells": cells,
        **({"effective_length": effective_length(cells)} if "length" in suite.cell else {}),
        **{key: value for key, value in found.items() if key != "tasks"},
        "versions": identity.versions(),
        "git_commit": git_commit(),
    }


def headline(name: str, *, tasks: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of the paper's tables; fractions, None where nothing was scored."""
    if name == "commonsense":
        # BoolQ and WinoGrande have no length-normalised score.
        columns = {
            metric: {task["task"]: mean(task, metric if metric in task["metrics"] else "acc") for task in tasks}
            for metric in HEADLINES
        }
        # The paper's own averages do not follow from its columns (protocol, section 6): ours are of the columns.
        averages = {
            metric: average([{"mean": value} for value in found.values()]) for metric, found in columns.items()
        }
        return {"columns": columns, "average": averages, "tables": HEADLINES}
    if name == "needle":
        longest = max(cell["length"] for cell in cells)
        return {
            "average": average(cells),
            "published_needle": mean(tasks[0], "published_needle_recall"),
            "no_needle": mean(tasks[0], "no_needle_recall"),
            "longest": average([cell for cell in cells if cell["length"] == longest]),
            "by_length": rows(cells, "length"),
        }
    if name == "mrs":
        published = {str(task["task"].rsplit("_", 1)[1]): mean(task, "published_mean") for task in tasks}
        scored = [value for value in published.values() if value is not None]
        return {"average": sum(scored) / len(scored) if scored else None, "by_needles": published}
    if name in ("ruler", "babilong", "nolima", "helmet-recall"):
        by_task = {"by_task": rows(cells, "task")} if name != "nolima" else {}
        return {"average": average(cells), "by_length": rows(cells, "length"), **by_task}
    if name in ("mdqa", "kv"):
        first = "num_documents" if name == "mdqa" else "num_keys"
        # The paper counts places from 1.
        return {
            "average": rows([cell for cell in cells if cell[first] > 1], first),
            "by_position": {
                str(number): {str(cell["gold_index"] + 1): cell["mean"] for cell in cells if cell[first] == number}
                for number in sorted({cell[first] for cell in cells})
            },
        }
    return {}


def mean(task: Mapping[str, Any], metric: str) -> float | None:
    """Return a task's mean of a metric, or None."""
    return task["metrics"][metric]["mean"] if metric in task["metrics"] else None


def rows(cells: Sequence[Mapping[str, Any]], field: str) -> dict[str, float | None]:
    """Return the mean over the cells of each value of a field."""
    return {
        str(value): average([cell for cell in cells if cell[field] == value])
        for value in sorted({cell[field] for cell in cells})
    }


def write(out: Path, name: str, content: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Path:
    """Write OUT/NAME.samples.jsonl, then OUT/NAME.json, and return the latter."""
    lines = "".join(json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    replace_text(out / f"{name}.samples.jsonl", lines)
    text = json.dumps(finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_text(out / f"{name}.json", text)
    return out / f"{name}.json"


def finished(path: Path, *, session: Session, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the document of an earlier run of the same model with the same settings, or None if there is none.

    Raises:
        UserError: there is a document of another model or of other settings.
    """
    if not path.exists():
        return None
    now = session.prompts(SUITES[path.stem])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        same = (
            content["format"] == FORMAT
            and content["model"]["fingerprint"] == session.model["fingerprint"]
            and content["tokenizer"]["fingerprint"] == session.tokenizer["fingerprint"]
            and all(content["model"].get(name) == session.model.get(name) for name in ("dtype", "backend"))
            and content["model"]["max_length"] == session.limit
            and all(_same(content, now, name) for name in ("bos", "chat_template", "decoding"))
            and content["settings"] == json.loads(json.dumps(settings))
        )
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a results document", fix="choose another --out, or --overwrite") from None
    if not same:
        raise UserError(
            f"{path} holds results of another model or of other settings", fix="choose another --out, or --overwrite"
        )
    return dict(content)


def _same(content: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    """Compare what was decided, not who decided it; a document of an earlier version may not hold it."""
    key = {"bos": "add_bos", "chat_template": "applied", "decoding": "eos_token_id"}[name]
    return name not in content or content[name][key] == now[name][key]
