"""Results of the arms: JSON files of an evaluation, and the validation loss that the trainer wrote.

Read are all `*.json` below RESULTS/ARM, checkpoints (`iter_*`) apart, in any of these forms:

    {"suite": "mdqa", "tasks": [{"task": "meap_kv_75", "metrics": {"em": {"mean": 0.5}}}]}     what `meap evaluate` writes
    {"task": "arc_easy", "metrics": {"acc": 0.56, "acc_norm": 0.49}}                           one task of it, plain
    {"results": {"arc_easy": {"acc,none": 0.56, "acc_norm,none": 0.49}}}                       lm-evaluation-harness

Other JSON files are passed over. Metrics are fractions, as the harness gives them.
"""

import json
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.training.metrics import read_metrics

Scores = dict[tuple[str, str], float]
"""(task, metric) -> value."""


def read_scores(folder: Path) -> Scores:
    """Return all scores below a folder, {} if it does not exist.

    Raises:
        UserError: a file is not JSON, or two files give different values for the same task and metric.
    """
    scores: Scores = {}
    origins: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.rglob("*.json")):
        if any(part.startswith("iter_") for part in path.relative_to(folder).parts):
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the results in {path}: {error}") from None
        for key, value in scores_of(document).items():
            if scores.setdefault(key, value) != value:
                raise UserError(
                    f"{path} says {key[0]} {key[1]} = {value}, {origins[key]} says {scores[key]}",
                    fix="keep one result per arm",
                )
            origins.setdefault(key, path)
    return scores


def scores_of(document: Any) -> Scores:
    """Return the scores of one JSON document, {} if it holds none."""
    if isinstance(document, list):
        return {key: value for item in document for key, value in scores_of(item).items()}
    if not isinstance(document, dict):
        return {}
    if isinstance(document.get("tasks"), list):
        return scores_of(document["tasks"])
    if isinstance(document.get("task"), str) and isinstance(document.get("metrics"), dict):
        tasks = {document["task"]: document["metrics"]}
    elif isinstance(document.get("results"), dict):
        tasks = document["results"]
    else:
        return {}
    scores: Scores = {}
    for task, metrics in tasks.items():
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            number = value.get("mean") if isinstance(value, dict) else value
            if isinstance(number, int | float) and not isinstance(number, bool):
                scores[task, name.split(",")[0]] = float(number)
    return scores


def validation_loss(save: Path) -> float | None:
    """Return the last validation loss (nats per token, clean inputs by default) that a run wrote, None without one."""
    path = save / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    losses = [record["lm_loss"] for record in records if record["event"] == "validation"]
    return losses[-1] if losses else None
