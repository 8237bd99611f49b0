"""The progress of a run: step, loss, speed, time left, last checkpoint, restarts, alerts. Files are only read."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from meap_megatron.checkpoint.choose import choose
from meap_megatron.checkpoint.folder import iterations
from meap_megatron.monitoring.alerts import Alert, exit_status, find_alerts
from meap_megatron.monitoring.records import History, Record, fold, metrics_file, read_lines, value

State = Literal["starting", "running", "finished", "stopped", "failed", "stalled", "waiting"]

SPEED_STEPS = 50
"""Newest steps over which tokens/s, MFU and the mean loss are taken."""
PACE_STEPS = 1000
"""Newest steps over which the pace of the clock is taken, validations and checkpoints included."""
STALLED_SECONDS = 600.0
STALLED_STEPS = 20
"""A run that is silent for longer than `STALLED_SECONDS` and `STALLED_STEPS` of its steps is stalled."""


@dataclass(frozen=True, kw_only=True)
class LastCheckpoint:
    """The checkpoint that the run would continue from."""

    step: int
    state: str
    age_seconds: float | None
    being_written: int | None
    """A newer step whose checkpoint is not complete: it is being saved, or was interrupted."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The progress of a run. Losses are in nats per token; None is what is not known."""

    run: str
    state: State
    step: int
    train_steps: int | None
    loss: float | None
    mean_loss: float | None
    masked_loss: float | None
    other_loss: float | None
    validation_loss: float | None
    validation_step: int | None
    grad_norm: float | None
    learning_rate: float | None
    tokens: int
    tokens_per_second: float | None
    mfu: float | None
    """A fraction."""
    seconds_per_step: float | None
    """Of the clock, validations and checkpoints included where the records tell the time."""
    eta_seconds: float | None
    silent_seconds: float
    """Since the metrics file was written."""
    checkpoint: LastCheckpoint | None
    restarts: list[int]
    """The steps from which the run went on."""
    begun_anew: int
    """Earlier tries that ended before their first checkpoint; their records are kept as metrics.N.jsonl."""
    world_size: int | None
    device: str | None
    alerts: list[Alert]
    exit_status: int

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def look(
    run: Path, *, now: float, stalled_after: float | None = None, waiting: bool = False, ignore: Sequence[str] = ()
) -> Status:
    """Read a run.

    Args:
        run: its `save` folder, or its metrics file.
        now: seconds since 1970.
        stalled_after: seconds of silence from which it is stalled; None: 600, or 20 steps if they take longer.
        waiting: its job is in the queue, nothing is expected to run.

    Raises:
        UserError: it holds no metrics, or they cannot be read.
    """
    path = metrics_file(run)
    history = fold(read_lines(path))
    silent = max(0.0, now - path.stat().st_mtime)
    own = history.of_newest_start()
    newest = (own or history.steps)[-SPEED_STEPS:]
    last = history.steps[-1] if history.steps else None
    pace = seconds_per_step(own or history.steps)
    limit = stalled_after if stalled_after is not None else max(STALLED_SECONDS, STALLED_STEPS * (pace or 0.0))
    checkpoint = newest_checkpoint(path.parent, now=now)
    found = find_alerts(history, silent_seconds=silent, stalled_after=limit, waiting=waiting)
    state = state_of(history, checkpoint, found, waiting=waiting)
    if state == "finished":  # killed after its last checkpoint: nothing is left to do
        found = [alert for alert in found if alert.name not in ("stalled", "failed")]
    alerts = [alert for alert in found if alert.name not in ignore]
    left = None if history.train_steps is None else history.train_steps - history.last_step
    validation = history.validations[-1] if history.validations else None
    losses = [loss for record in newest if (loss := value(record, "lm_loss")) is not None]
    return Status(
        run=str(run),
        state=state,
        step=history.last_step,
        train_steps=history.train_steps,
        loss=value(last, "lm_loss"),
        mean_loss=statistics.fmean(losses) if losses else None,
        masked_loss=value(last, "masked_loss"),
        other_loss=value(last, "other_loss"),
        validation_loss=value(validation, "lm_loss"),
        validation_step=validation["step"] if validation else None,
        grad_norm=value(last, "grad_norm"),
        learning_rate=value(last, "learning_rate"),
        tokens=int(last["consumed_tokens"]) if last else 0,
        tokens_per_second=middle(newest, "tokens_per_second"),
        mfu=middle(newest, "mfu"),
        seconds_per_step=pace,
        eta_seconds=left * pace if left is not None and pace is not None and state == "running" else None,
        silent_seconds=silent,
        checkpoint=checkpoint,
        restarts=history.restarts,
        begun_anew=len(list(path.parent.glob(f"{path.stem}.[0-9]*{path.suffix}"))),
        world_size=history.settings.get("world_size"),
        device=history.settings.get("device"),
        alerts=alerts,
        exit_status=exit_status(alerts),
    )


def seconds_per_step(steps: Sequence[Record]) -> float | None:
    """Return the pace of one start: by the clock if the records tell the time, else the median time in a step."""
    timed = [record for record in steps[-PACE_STEPS:] if "time" in record]
    if len(timed) >= 2:
        return float((timed[-1]["time"] - timed[0]["time"]) / (timed[-1]["step"] - timed[0]["step"]))
    return middle(steps[-SPEED_STEPS:], "seconds")


def middle(steps: Sequence[Record], field: str) -> float | None:
    """Return the median of a field over steps that have it."""
    values = [found for record in steps if (found := value(record, field)) is not None]
    return statistics.median(values) if values else None


def newest_checkpoint(folder: Path, *, now: float) -> LastCheckpoint | None:
    """Return the checkpoint that a run would continue from; None if there is none that can be loaded."""
    choice = choose(folder, "sizes")
    newest = max(iterations(folder), default=0)
    if choice.chosen is None or choice.iteration is None:
        return None
    known = choice.chosen.manifest
    written = datetime.fromisoformat(known.written).timestamp() if known and known.written else None
    return LastCheckpoint(
        step=choice.iteration,
        state=choice.chosen.state,
        age_seconds=None if written is None else max(0.0, now - written),
        being_written=newest if newest > choice.iteration else None,
    )


def state_of(history: History, checkpoint: LastCheckpoint | None, alerts: Sequence[Alert], *, waiting: bool) -> State:
    """Return what a run is doing, in one word."""
    done = history.train_steps is not None and history.last_step >= history.train_steps
    if done and (ended_in_order(history) or (checkpoint is not None and checkpoint.step >= history.last_step)):
        return "finished"
    if waiting:
        return "waiting"
    if history.end is not None:
        return "stopped" if ended_in_order(history) else "failed"
    if any(alert.name == "stalled" for alert in alerts):
        return "stalled"
    return "running" if history.of_newest_start() else "starting"


def ended_in_order(history: History) -> bool:
    """Tell whether the newest start ended by itself: at its last step, at a signal or at a time limit."""
    return history.end is not None and history.end["event"] == "end" and history.end.get("status", 0) == 0
