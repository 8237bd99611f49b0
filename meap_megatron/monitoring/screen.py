"""A status as the lines that a person reads. Pure functions."""

from collections.abc import Callable
from typing import Any

from meap_megatron.errors import counted
from meap_megatron.formats import duration
from meap_megatron.monitoring.slurm import SlurmJob
from meap_megatron.monitoring.status import LastCheckpoint, Status


def lines(status: Status) -> list[str]:
    """Return the status as text, one thing a line; what is not known is left out."""
    step = f"{status.step:,}"
    if status.train_steps:
        step += f" of {status.train_steps:,} ({status.step / status.train_steps:.1%})"
    rows = [("step", joined(step, known(status.eta_seconds, lambda s: f"{duration(s)} left")))]
    rows.append(("loss", loss_text(status)))
    if status.validation_loss is not None:
        rows.append(("validation", f"{status.validation_loss:.4f} at step {status.validation_step:,}"))
    rows.append(
        (
            "gradient",
            joined(
                known(status.grad_norm, lambda n: f"norm {n:.3f}"),
                known(status.learning_rate, lambda r: f"learning rate {r:.3g}"),
            ),
        )
    )
    rows.append(
        (
            "speed",
            joined(
                known(status.tokens_per_second, lambda n: f"{n:,.0f} tokens/s"),
                known(status.seconds_per_step, lambda s: f"{s:.3g} s per step"),
                known(status.mfu, lambda m: f"MFU {m:.1%}"),
                known(status.world_size, lambda n: f"{counted(n, 'rank')}, {status.device}"),
            ),
        )
    )
    rows.append(("tokens", f"{status.tokens:,}" if status.tokens else ""))
    rows.append(("checkpoint", checkpoint_text(status.checkpoint)))
    rows.append(("restarts", restarts_text(status)))
    head = f"{status.run}: {status.state}, last written {duration(status.silent_seconds)} ago"
    body = [f"  {name:<11} {text}" for name, text in rows if text]
    return [head, *body, *(f"ALERT {alert.name}: {alert.message}" for alert in status.alerts)]


def job_lines(job: SlurmJob) -> list[str]:
    """Return what SLURM says of a job."""
    why = f" ({job.reason})" if job.reason else ""
    times = f", started {counted(job.restarts + 1, 'time')}" if job.restarts else ""
    where = f", on {job.nodes}" if job.nodes else ""
    limit = f", time is over {job.ends}" if job.state == "RUNNING" and job.ends != "Unknown" else ""
    end = f", exit code {job.exit_code}" if job.ended_badly else limit
    return [
        f"job {job.job}: {job.state}{why}{times}{where}{end}",
        *([f"  output      {job.output}"] if job.output else []),
    ]


def loss_text(status: Status) -> str:
    """Return the losses of the last step and the mean of the newest ones."""
    if not status.tokens:
        return ""
    parts = ["not a finite number" if status.loss is None else f"{status.loss:.4f}"]
    if status.masked_loss is not None:
        parts.append(f"masked {status.masked_loss:.4f}")
        parts.append("" if status.other_loss is None else f"other {status.other_loss:.4f}")
    parts.append("" if status.mean_loss is None else f"mean of the newest steps {status.mean_loss:.4f}")
    return joined(*parts)


def checkpoint_text(found: LastCheckpoint | None) -> str:
    """Return the last checkpoint."""
    if found is None:
        return "none yet"
    newer = "" if found.being_written is None else f"step {found.being_written:,} is not complete"
    return joined(f"step {found.step:,}", found.state, known(found.age_seconds, lambda s: f"{duration(s)} ago"), newer)


def restarts_text(status: Status) -> str:
    """Return how often the run was started again, and from where."""
    count = len(status.restarts)
    text = str(count)
    if count:
        text += " (from step " + ", ".join(f"{step:,}" for step in status.restarts[-6:]) + ")"
    if status.begun_anew:
        text += f"; restarted at step 0: {status.begun_anew}"
    return text


def known(number: float | None, text: Callable[[Any], str]) -> str:
    """Return `text(number)`, or nothing where the number is not known."""
    return "" if number is None else text(number)


def joined(*parts: str) -> str:
    """Return the parts that are not empty, three blanks between them."""
    return "   ".join(part for part in parts if part)
