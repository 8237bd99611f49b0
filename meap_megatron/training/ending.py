"""How a run ends: signals that let it save first, a value that is not finite, and the line that says what was saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.checkpoint.folder import iteration_folder, iterations, read_tracker
from meap_megatron.launch.outcome import TOLD, saved
from meap_megatron.training.metrics import read_metrics

SAVED_TO_REPEAT, FAILED_AGAIN = 16, 17
"""Status with which Megatron ends a run at a value that is not finite (rerun_state_machine.py)."""


@dataclass(frozen=True, kw_only=True)
class EndSettings:
    """What the last line of a run speaks of, under the names of Megatron's parser."""

    save: str | None
    train_iters: int
    exit_interval: int | None
    exit_duration_in_mins: int | None
    lr: float


def end_early() -> None:
    """Let SIGTERM end this process in order, not at once, until Megatron listens to it."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(TOLD)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def interruptible(screen: TextIO, *, rank: int, saves: bool) -> Iterator[None]:
    """Let the first Ctrl+C of a run that saves at SIGTERM do the same, and the second end it at once."""

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not listening():
            raise KeyboardInterrupt  # nothing is trained yet
        if rank == 0:
            print("meap: saving after this step; Ctrl+C once more ends the run at once", file=screen, flush=True)
        signal.raise_signal(signal.SIGTERM)

    if not saves or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def listening() -> bool:
    """Tell whether Megatron listens to SIGTERM."""
    from megatron.training import global_vars

    return global_vars._GLOBAL_SIGNAL_HANDLER is not None


def was_signalled() -> bool:
    """Tell whether this rank was told to end."""
    from megatron.training import global_vars

    return listening() and bool(global_vars._GLOBAL_SIGNAL_HANDLER._signal_received)


def stopped(settings: EndSettings, step: int) -> str:
    """Return the line for a run that Megatron ended before its last step.

    Args:
        step: the last one that was done.
    """
    if was_signalled():
        why = "told to end"
    elif settings.exit_interval and step % settings.exit_interval == 0:
        why = f"exit_interval={settings.exit_interval}"
    elif settings.exit_duration_in_mins:
        why = f"exit_duration_in_mins={settings.exit_duration_in_mins}"
    else:
        why = "told to end"
    left = saved(settings.save, step)
    how = (
        "; the same command continues from there"
        if settings.save and read_tracker(Path(settings.save)).iteration
        else ""
    )
    return f"stopped after step {step:,} of {settings.train_iters:,} ({why}); {left}{how}"


def last_line(settings: EndSettings, status: Any, step: int) -> str | None:
    """Return what to say at the end of a run that did not fail; None: its last step was shown and everything is saved.

    Args:
        status: with which Megatron ended, 0 also for a run that is complete.
        step: the last one that was done.
    """
    if status in (SAVED_TO_REPEAT, FAILED_AGAIN):
        return f"meap: {not_finite(settings, status, step)}"
    if step < settings.train_iters:
        return f"meap: {stopped(settings, step)}"
    if settings.save and (newest := read_tracker(Path(settings.save)).iteration):
        return f"meap: complete; saved {iteration_folder(Path(settings.save), newest)}"
    return None


def not_finite(settings: EndSettings, status: int, step: int) -> str:
    """Return what to say of a loss or gradient that is not finite, and what helps.

    Args:
        status: with which the run ends, one of the two above.
        step: the last one that was done; the next one gave the value.
    """
    again = " again, so it is not an accident of the hardware" if status == FAILED_AGAIN else ""
    ways = [f"skip its data (iterations_to_skip=[{step + 1}])"]
    earlier = [n for n in iterations(Path(settings.save)) if n < step] if settings.save else []
    if earlier:
        ways.append(
            f"go back to step {max(earlier)} with a lower learning rate (ckpt_step={max(earlier)} lr={settings.lr / 2:g} "
            "override_opt_param_scheduler=true)"
        )
    else:
        ways.append(f"start over with a lower learning rate (lr={settings.lr / 2:g} and another save)")
    if status == SAVED_TO_REPEAT:
        ways.append("start the same command again to see whether another GPU gives it too")
    return f"the loss or a gradient of step {step + 1:,} is not finite{again}; {', or '.join(ways)}"


def failed_before(metrics: Path | None) -> int | None:
    """Return the step after which the last start met a value that is not finite, read before this start writes; else None.

    Megatron tells an accident from a lasting fault by repeating the step on another GPU. A machine without one gives the
    first status for ever, and a batch script would start the job again without end.
    """
    if metrics is None or not metrics.is_file():
        return None
    records = read_metrics(metrics)
    end = records[-1] if records else {}
    return int(end["step"]) if end.get("event") == "end" and end.get("status") == SAVED_TO_REPEAT else None
