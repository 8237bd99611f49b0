"""Find the runs of a report: results documents and training metrics below the folders that were named."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.results import FORMAT
from meap_megatron.evaluation.suites import SUITES
from meap_megatron.monitoring.records import METRICS, read_lines


@dataclass(kw_only=True)
class ReportedRun:
    """One model, or one training run, or both."""

    label: str
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Suite -> results document."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Suite -> folder of the document."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Records of metrics.jsonl, [] without."""
    origins: dict[str, Path] = field(default_factory=dict)
    """Suite or metrics.jsonl -> file."""


def collect(arguments: Sequence[str]) -> list[ReportedRun]:
    """Return the runs below folders, in the order in which they were named.

    Args:
        words: `DIR` or `LABEL=DIR`; a label that is given twice joins results and training of one model.

    Raises:
        UserError: a folder does not exist or holds nothing, or a file cannot be used.
    """
    runs: dict[str, ReportedRun] = {}
    for argument in arguments:
        label, folder = split(argument)
        for name, files in groups(folder, label):
            run = runs.setdefault(name, ReportedRun(label=name))
            for path in files:
                add(run, path)
    return list(runs.values())


def split(argument: str) -> tuple[str, Path]:
    """Split `LABEL=DIR`; the label of a plain folder is its name.

    Raises:
        UserError: it is not a folder.
    """
    label, equals, rest = argument.partition("=")
    if not equals or Path(argument).is_dir():
        label, rest = "", argument
    folder = Path(rest)
    if not folder.is_dir():
        raise UserError(f"{rest} is not a folder", fix="give folders of results or training runs, as DIR or LABEL=DIR")
    name = folder.resolve().name
    if name == "evaluation":
        name = folder.resolve().parent.name
    return label or name, folder


def files_below(folder: Path) -> Iterator[Path]:
    """Yield results documents and metrics files below a folder; checkpoints are not searched."""
    wanted = {METRICS, *(f"{suite}.json" for suite in SUITES)}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(("iter_", ".")))
        yield from (Path(place) / name for name in sorted(names) if name in wanted)


def groups(folder: Path, label: str) -> list[tuple[str, list[Path]]]:
    """Return (label, files) of each run below a folder: one, or one for each subfolder where kinds occur twice.

    Raises:
        UserError: there is nothing, or what occurs twice cannot be told apart by subfolders.
    """
    files = list(files_below(folder))
    if not files:
        suites = ", ".join(f"{suite}.json" for suite in SUITES)
        raise UserError(
            f"{folder} holds no results ({suites}) and no {METRICS}", fix="run meap evaluate or meap train first"
        )
    names = [path.name for path in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is None:
        return [(label, files)]
    parts: dict[str, list[Path]] = {}
    for path in files:
        inside = path.relative_to(folder).parts
        parts.setdefault(inside[0] if len(inside) > 1 else "", []).append(path)
    if "" in parts:
        first, second = [path for path in files if path.name == twice][:2]
        raise UserError(f"{folder} holds {twice} twice, {first} and {second}", fix="name the folders one by one")
    return [group for part in parts for group in groups(folder / part, f"{label}/{part}" if len(parts) > 1 else label)]


def add(run: ReportedRun, path: Path) -> None:
    """Read a file into a run.

    Raises:
        UserError: it cannot be used, or the run has one of this kind.
    """
    kind = path.name if path.name == METRICS else path.stem
    if kind in run.origins:
        raise UserError(
            f"run {run.label} has {path.name} twice: {run.origins[kind]} and {path}", fix="give another label"
        )
    run.origins[kind] = path
    if kind == METRICS:
        run.metrics = read_lines(path)
    else:
        run.documents[kind] = read_document(path)
        run.folders[kind] = path.parent


def read_document(path: Path) -> dict[str, Any]:
    """Read a results document.

    Raises:
        UserError: it is not one, or of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON ({error})", fix="run the suite again with --overwrite") from None
    needed = ("suite", "format", "model", "tokenizer", "bos", "tasks", "cells", "headline", "settings", "versions")
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing or content["suite"] != path.stem or content["format"] != FORMAT:
        why = f"it lacks {', '.join(missing)}" if missing else f"suite {content['suite']}, format {content['format']}"
        raise UserError(
            f"{path} is not a results document of meap evaluate {path.stem}, format {FORMAT} ({why})",
            fix="run the suite again",
        )
    return dict(content)
