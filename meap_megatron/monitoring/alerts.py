"""What is wrong with a run: not a number, failed, stalled, a loss spike. Pure functions of records."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from meap_megatron.errors import counted
from meap_megatron.monitoring.records import History, Record

Name = Literal["nan", "failed", "stalled", "spike"]
EXIT_STATUS: dict[Name, int] = {"nan": 3, "failed": 4, "stalled": 5, "spike": 6}
"""Alert -> exit status of `meap status`, worst first; 0 to 2 mean what they mean for every verb."""

MEGATRON_NOT_FINITE = (16, 17)
"""Exit statuses of Megatron's result validation: stopped to find out whether it happens again; it happened again."""

SPIKE_BEFORE = 200
"""Steps before a step that its loss is compared with; at least `SPIKE_LEAST`."""
SPIKE_LEAST = 20
SPIKE_DEVIATIONS = 6.0
"""Standard deviations, estimated from the median absolute deviation: the trend of a falling loss only widens them."""
SPIKE_SHARE = 0.05
"""And at least this share of the median: a very quiet loss is not an alarm."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One thing that is wrong."""

    name: Name
    step: int
    message: str


def find_alerts(
    history: History, *, silent_seconds: float, stalled_after: float, waiting: bool = False, window: int = 100
) -> list[Alert]:
    """Return what is wrong with a run now, worst first.

    Args:
        silent_seconds: since its metrics file was last written.
        stalled_after: seconds of silence from which a run that has not ended is stalled.
        waiting: nothing is expected to run: the job is in the queue.
        window: newest steps that are looked at for values that are not finite and for spikes.
    """
    alerts = [*not_finite(history, window=window), *ended_badly(history)]
    if history.end is None and not waiting and silent_seconds > stalled_after:
        last, of = history.last_step, history.train_steps
        text = f"nothing was written for {silent_seconds:,.0f} s (limit {stalled_after:,.0f} s); last step {last:,}"
        alerts.append(Alert(name="stalled", step=last, message=text + (f" of {of:,}" if of else "")))
    alerts += spikes(history.steps, newest=window)
    return sorted(alerts, key=lambda alert: EXIT_STATUS[alert.name])


def not_finite(history: History, *, window: int) -> list[Alert]:
    """Return an alert if a loss or gradient norm of the newest steps, or the newest validation loss, is not finite.

    The records hold NaN as null. A gradient norm of null is not an alert: steps that a loss scale skips have none.
    """
    newest = history.steps[-window:]
    for kind, records in (("", newest), ("validation ", history.validations[-1:])):
        bad = [record for record in records if not finite(record.get("lm_loss"))]
        if bad:
            more = f", and {counted(len(bad) - 1, 'step')} after it" if len(bad) > 1 else ""
            text = f"the {kind}loss of step {bad[0]['step']:,} is {text_of(bad[0].get('lm_loss'))}{more}"
            return [Alert(name="nan", step=bad[0]["step"], message=text)]
    for record in newest:
        norm = record.get("grad_norm")
        if norm is not None and not finite(norm):
            text = f"the gradient norm of step {record['step']:,} is {text_of(norm)}"
            return [Alert(name="nan", step=record["step"], message=text)]
    return []


def ended_badly(history: History) -> list[Alert]:
    """Return an alert if the newest start ended by an error, as its last record tells."""
    end = history.end
    if end is None:
        return []
    step, status, error = int(end["step"]), end.get("status", 0), end.get("error", "")
    if status in MEGATRON_NOT_FINITE:
        again = "after the same had happened before" if status == MEGATRON_NOT_FINITE[1] else "it saved a checkpoint"
        text = f"Megatron stopped after step {step:,}: a loss or gradient of the next step is not finite ({again})"
        return [Alert(name="nan", step=step, message=text)]
    if re.search(r"unexpected result -?(nan|inf)", error, re.IGNORECASE):
        return [Alert(name="nan", step=step, message=f"failed after step {step:,}: {error}")]
    if end["event"] == "failed" or status != 0:
        reason = error or f"exit status {status}"
        return [Alert(name="failed", step=step, message=f"failed after step {step:,}: {reason}")]
    return []


def spikes(steps: Sequence[Record], *, newest: int) -> list[Alert]:
    """Return an alert if the loss spiked in the `newest` steps.

    A step is in a spike if its loss lies above the median of the up to `SPIKE_BEFORE` steps before it by more than
    `SPIKE_DEVIATIONS` standard deviations and by more than `SPIKE_SHARE` of the median. Median and median absolute
    deviation, because the steps before may hold a spike themselves.
    """
    losses = [(record["step"], float(record["lm_loss"])) for record in steps if finite(record.get("lm_loss"))]
    found: list[tuple[int, float, float]] = []
    for place in range(max(SPIKE_LEAST, len(losses) - newest), len(losses)):
        before = [loss for _, loss in losses[max(0, place - SPIKE_BEFORE) : place]]
        middle = statistics.median(before)
        deviation = 1.4826 * statistics.median(abs(loss - middle) for loss in before)
        step, loss = losses[place]
        if loss - middle > max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * abs(middle)):
            found.append((step, loss, middle))
    if not found:
        return []
    step, loss, middle = max(found, key=lambda one: one[1])
    back = "and it is back" if found[-1][0] != losses[-1][0] else "and it is not back"
    text = f"the loss spiked from {middle:.4f} to {loss:.4f} at step {step:,} ({counted(len(found), 'step')}), {back}"
    return [Alert(name="spike", step=step, message=text)]


def exit_status(alerts: Sequence[Alert]) -> int:
    """Return the exit status that tells of the worst alert; 0 without any."""
    return min((EXIT_STATUS[alert.name] for alert in alerts), default=0)


def finite(number: float | None) -> bool:
    """Tell whether a recorded value is a number."""
    return number is not None and math.isfinite(number)


def text_of(number: float | None) -> str:
    """Return a value that is not finite as text; JSON null is NaN."""
    return "NaN" if number is None else str(number)
