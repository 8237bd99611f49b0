"""The records of a `metrics.jsonl`, after all starts of a run. Files may be read while a run writes them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError

METRICS = "metrics.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class History:
    """One run over all its starts; every step once."""

    starts: list[Record]
    steps: list[Record]
    """Ascending by step."""
    validations: list[Record]
    tests: list[Record]
    end: Record | None
    """How the newest start ended: an "end" or "failed" record; None while it runs, and after a kill."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of the newest start: a resumed run may train for longer, or on other GPUs."""
        return self.starts[-1].get("run", {}) if self.starts else {}

    @property
    def last_step(self) -> int:
        """The newest step; where nothing was trained yet, the step that the run starts from."""
        begun = self.starts[-1].get("step", 0) if self.starts else 0
        return int(self.steps[-1]["step"]) if self.steps else int(begun)

    @property
    def train_steps(self) -> int | None:
        """The step at which training ends."""
        steps = self.settings.get("train_iters")
        return int(steps) if steps else None

    @property
    def restarts(self) -> list[int]:
        """The steps from which the run continued; the first start is not one."""
        return [int(record["step"]) for record in self.starts[1:]]

    def of_newest_start(self) -> list[Record]:
        """Return the steps that the newest start has done."""
        begun = self.starts[-1]["step"] if self.starts else 0
        return [record for record in self.steps if record["step"] > begun]


def read_lines(path: Path) -> list[Record]:
    """Read a metrics file; a torn last line of a run that is under way or was killed is left out.

    Raises:
        UserError: another line is not a record; names file and line.
    """
    try:
        # Not splitlines(): a string may hold U+2028 and its like.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "event" not in record:
                raise ValueError("no event")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}:{number}: not a record of a training run ({error})") from None
        records.append(record)
    if not records:
        raise UserError(f"{path} holds no records; the run has not begun")
    return records


def fold(records: Sequence[Record]) -> History:
    """Sort records by kind; of a step that was written twice, the later record counts.

    A start from step N makes all records of later steps void, as the trainer does when it resumes.
    """
    starts: list[Record] = []
    kinds: dict[str, dict[int, Record]] = {"step": {}, "validation": {}, "test": {}}
    end: Record | None = None
    for record in records:
        event = record["event"]
        if event == "start":
            starts.append(record)
            end = None
            for name, found in kinds.items():
                kinds[name] = {step: old for step, old in found.items() if step <= record.get("step", 0)}
        elif event in ("end", "failed"):
            end = record
        elif event in kinds:
            kinds[event][record["step"]] = record
    steps, validations, tests = ([found[step] for step in sorted(found)] for found in kinds.values())
    return History(starts=starts, steps=steps, validations=validations, tests=tests, end=end)


def metrics_file(run: Path) -> Path:
    """Return the metrics file of a run, given its `save` folder or the file itself.

    Raises:
        UserError: there is none; says what is there instead.
    """
    if run.is_file():
        return run
    if not run.exists():
        raise UserError(f"{run} does not exist", fix=f"name the `save` folder of a run, or its {METRICS}")
    path = run / METRICS
    if path.is_file():
        return path
    below = sorted(str(found.parent) for found in run.glob(f"*/{METRICS}"))
    if below:
        raise UserError(f"{run} holds no {METRICS}, but runs: {', '.join(below[:6])}", fix="name one of them")
    hint = "it is empty" if not any(run.iterdir()) else "with meap_metrics= elsewhere, name the file"
    raise UserError(f"{run} holds no {METRICS}: the run has not begun, or this is not a `save` folder ({hint})")


def read_history(run: Path) -> History:
    """Read a run, given its `save` folder or its metrics file.

    Raises:
        UserError: see `metrics_file` and `read_lines`.
    """
    return fold(read_lines(metrics_file(run)))


def value(record: Record | None, field: str) -> float | None:
    """Return a field as a finite number; None where it is absent, NaN or infinite."""
    number = None if record is None else record.get(field)
    return float(number) if number is not None and math.isfinite(number) else None
