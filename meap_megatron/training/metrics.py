"""What a run reports: `metrics.jsonl`, TensorBoard, and one progress line a person can read.

Megatron writes its scalars to a TensorBoard writer on the last rank. `RunMetrics` takes that writer's place, passes every
scalar on to the real writer if there is one, and collects those of one step into one record. Values are those of the
step itself, not the averages of Megatron's log line, whose denominator is wrong for the first line after a resume.
"""

import json
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.atomic import replace_text
from meap_megatron.formats import clock_time, finite

STEP_FIELDS = {
    "lm loss": "lm_loss",
    "masked loss": "masked_loss",
    "other loss": "other_loss",
    "mask fraction": "mask_fraction",
    "trained fraction": "trained_fraction",
    "learning-rate": "learning_rate",
    "grad-norm": "grad_norm",
}
"""Tag of Megatron's scalar -> field of a step record."""
VALIDATION_FIELDS = {
    **{f"{tag} validation": STEP_FIELDS[tag] for tag in ("lm loss", "masked loss", "other loss")},
    "bits per byte validation": "bits_per_byte",
}
NUMBERED = re.compile(r"(.+ validation)-\d+")
"""Tag of a validation scalar where Megatron counts the sets (multiple_validation_sets)."""


FIRST_STEPS = 3
"""Steps after a start that are always shown: whether it works, and how fast, is what people wait for."""
ERROR_CHARACTERS = 500
"""Of an error message in the "failed" record."""


@dataclass(frozen=True, kw_only=True)
class RunShape:
    """What turns seconds into tokens/s and MFU."""

    train_steps: int
    tokens_per_step: int
    flops_of_step: Callable[[], float]
    """Operations of the whole job in the step that has just ended (mean over several, where a record is of several)."""
    peak_flops: float | None
    """Of the whole job per second; None: MFU is not reported."""
    log_interval: int
    """Steps between progress lines."""
    evaluations_at_end: tuple[str, ...] = ("validation",)
    """What Megatron evaluates at the last step, in this order and under the same tags: "validation" or "test"."""


class RunMetrics:
    """A TensorBoard writer that also writes `metrics.jsonl` and prints progress."""

    def __init__(
        self,
        *,
        path: Path | None,
        shape: RunShape,
        settings: dict[str, Any],
        start_step: int,
        inner: Any = None,
        screen: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Open the file and write the "start" record.

        Args:
            path: of metrics.jsonl; records after `start_step`, left by a run that was resumed, are dropped.
            settings: what is worth knowing of the run, JSON values.
            start_step: number of steps already done.
            inner: the TensorBoard writer to pass scalars on to.
            screen: where progress lines go; None: nowhere.
            clock: seconds, monotonic.
            wall: seconds since 1970; is in every record.
        """
        self.inner, self.shape, self.screen, self.clock, self.wall = inner, shape, screen, clock, wall
        self.began = clock()
        self.step_began: float | None = None
        self.record: dict[str, Any] = {}
        self.validation: dict[str, Any] = {}
        self.last_step = self.start_step = start_step
        self.evaluations_done = 0
        self.recent: list[float] = []
        self.flops = 0.0
        self.file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            keep_until(path, start_step)
            self.file = path.open("a", encoding="utf-8")
        self.write({"event": "start", "step": start_step, "run": settings})

    def forward_begins(self) -> None:
        """Note the time of the first forward pass of a step; called at every micro-batch."""
        if self.step_began is None:
            self.end_validation()
            self.step_began = self.clock()

    def add_scalar(self, tag: str, value: Any, step: int | None = None, **rest: Any) -> None:
        """Take one scalar, as `SummaryWriter.add_scalar`."""
        if self.inner is not None:
            self.inner.add_scalar(tag, value, step, **rest)
        if step is None:
            return
        if numbered := NUMBERED.fullmatch(tag):
            tag = numbered[1]
        if tag in STEP_FIELDS:
            if self.record and self.record["step"] != step:
                self.end_step()
            if not self.record:
                self.begin_record(step)
            self.record[STEP_FIELDS[tag]] = number(value)
            if tag == "grad-norm":
                # The last of the tags above that Megatron writes for a step.
                self.end_step()
        elif tag in VALIDATION_FIELDS:
            if self.validation and (tag == "lm loss validation" or self.validation["step"] != step):
                self.end_validation()
            if not self.validation:
                event = self.evaluation_at(step)
                self.validation = {"event": event, "step": step, "lm_loss": None, "masked_loss": None}
                self.validation |= {"other_loss": None, "bits_per_byte": None}
            self.validation[VALIDATION_FIELDS[tag]] = number(value)

    def evaluation_at(self, step: int) -> str:
        """Return what the evaluation that begins now is of; at the last step there are several."""
        if step != self.shape.train_steps:
            return "validation"
        index = min(self.evaluations_done, len(self.shape.evaluations_at_end) - 1)
        self.evaluations_done += 1
        return self.shape.evaluations_at_end[index]

    def begin_record(self, step: int) -> None:
        """Start the record of a step; its time ends here, before the checkpoint and the validation that may follow."""
        self.end_validation()
        now = self.clock()
        seconds = now - (self.step_began if self.step_began is not None else self.began)
        self.step_began = None
        # With a tensorboard_log_interval above 1, a record is of several steps.
        seconds /= max(1, step - self.last_step)
        self.flops = self.shape.flops_of_step() if self.shape.peak_flops else 0.0
        self.record = {"event": "step", "step": step, "lm_loss": None, "masked_loss": None, "other_loss": None}
        self.record |= {
            "mask_fraction": 0.0,
            "trained_fraction": None,
            "learning_rate": None,
            "grad_norm": None,
            "consumed_tokens": step * self.shape.tokens_per_step,
            "tokens_per_second": self.shape.tokens_per_step / seconds,
            "mfu": self.mfu(seconds),
            "seconds": seconds,
        }

    def mfu(self, seconds: float) -> float | None:
        """Return model FLOP/s over peak FLOP/s; None without a peak, and for good after a step that exceeds it.

        On a CPU the peak is measured at the start of the run: too low while the machine has other work.
        """
        share = share_of_peak(self.flops, seconds, self.shape)
        if self.shape.peak_flops and share is None:
            self.shape = replace(self.shape, peak_flops=None)
        return share

    def end_step(self) -> None:
        """Write the record of a step and, every `log_interval` steps, the progress line."""
        record, self.record = self.record, {}
        if record["masked_loss"] is None:
            record["other_loss"] = record["lm_loss"]
        self.write(record)
        self.last_step = record["step"]
        self.recent = [*self.recent[-19:], record["seconds"]]
        if self.inner is not None:
            self.inner.add_scalar("tokens-per-second", record["tokens_per_second"], record["step"])
            if record["mfu"] is not None:
                self.inner.add_scalar("mfu", record["mfu"], record["step"])
        first = record["step"] <= self.start_step + FIRST_STEPS
        if first or record["step"] % self.shape.log_interval == 0 or record["step"] == self.shape.train_steps:
            self.show(progress_line(record, self.shape, self.recent, flops=self.flops))

    def end_validation(self) -> None:
        """Write the record of an evaluation, if one was collected."""
        if self.validation:
            record, self.validation = self.validation, {}
            if record["masked_loss"] is None:
                record["other_loss"] = record["lm_loss"]
            self.write(record)
            bits = record["bits_per_byte"]
            tail = "" if bits is None else f"  {bits:.4f} bits/byte"
            self.show(f"step {record['step']:>6}  {record['event']} loss {number_text(record['lm_loss'])}{tail}")

    def show(self, line: str) -> None:
        """Print one line for people."""
        if self.screen is not None:
            print(line, file=self.screen, flush=True)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record and flush it, so that a killed run keeps all its lines."""
        if self.file is not None:
            self.file.write(json.dumps(finite(record) | {"time": round(self.wall(), 2)}, allow_nan=False) + "\n")
            self.file.flush()

    def flush(self) -> None:
        """Flush, as `SummaryWriter.flush`."""
        if self.inner is not None:
            self.inner.flush()

    def close(self, *, failed: bool = False) -> None:
        """Write the "end" record, or "failed" with the error that is being handled; close the file and the real writer.

        Megatron ends a run by `SystemExit` at a signal and at a time limit (status 0), and where a loss or a gradient is
        not finite (16 or 17, after a checkpoint); "end" holds that status.
        """
        if self.record:
            self.end_step()
        self.end_validation()
        error, seconds = sys.exception(), self.clock() - self.began
        if failed:
            text = f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]
            self.write({"event": "failed", "step": self.last_step, "seconds": seconds, "error": text})
        else:
            status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 0
            self.write({"event": "end", "step": self.last_step, "seconds": seconds, "status": status})
        if self.file is not None:
            self.file.close()
            self.file = None
        if self.inner is not None:
            self.inner.close()

    def __getattr__(self, name: str) -> Any:
        """Pass every other method of a SummaryWriter on, or ignore the call if there is no real writer."""
        if name.startswith("__"):
            raise AttributeError(name)
        inner = self.__dict__.get("inner")
        return getattr(inner, name) if inner is not None else lambda *args, **kwargs: None


def number(value: Any) -> float | None:
    """Return a scalar (tensor or number) as a float, None if it is not finite: JSON has neither NaN nor Infinity."""
    result = float(value)
    return result if math.isfinite(result) else None


def progress_line(record: dict[str, Any], shape: RunShape, recent: list[float], *, flops: float) -> str:
    """Return the line that a person reads; `recent` holds the seconds of the last steps, `flops` those of the last one."""
    parts = [f"step {record['step']:>6}/{shape.train_steps}", f"loss {number_text(record['lm_loss'])}"]
    if record["masked_loss"] is not None:
        # A step may have no position of one kind: that mean does not exist, and nothing is wrong.
        empty = "-" if record["lm_loss"] is not None else "nan"
        masked, other = (number_text(record[f"{part}_loss"], empty) for part in ("masked", "other"))
        parts.append(f"(masked {masked}, other {other})")
    if record["grad_norm"] is not None:
        parts.append(f"grad {record['grad_norm']:.3f}")
    if record["learning_rate"] is not None:
        parts.append(f"lr {record['learning_rate']:.2e}")
    pace = sorted(recent)[len(recent) // 2]
    parts.append(f"{shape.tokens_per_step / pace:,.0f} tokens/s")
    if (share := share_of_peak(flops, pace, shape)) is not None:
        parts.append(f"MFU {share:.0%}")
    parts.append(f"ETA {clock_time((shape.train_steps - record['step']) * pace)}")
    return "  ".join(parts)


def share_of_peak(flops: float, seconds: float, shape: RunShape) -> float | None:
    """Return MFU, or None without a peak or where more was reached than what is said to be possible."""
    share = flops / seconds / shape.peak_flops if shape.peak_flops else None
    return None if share is None or share > 1 else share


def number_text(value: float | None, missing: str = "nan") -> str:
    """Return a loss with four digits, or what is written for None."""
    return missing if value is None else f"{value:.4f}"


def keep_until(path: Path, step: int) -> None:
    """Drop the records of steps after `step` from an existing metrics file; a run that starts over keeps a copy.

    A file of a run that restarts from step 0 is renamed to `metrics.1.jsonl` (or the next free number), not deleted.
    """
    if not path.exists():
        return
    if step == 0:
        free = next(n for n in range(1, 10_000) if not path.with_suffix(f".{n}.jsonl").exists())
        path.rename(path.with_suffix(f".{free}.jsonl"))
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the torn last line of a killed run
        if record.get("event") not in ("end", "failed") and record.get("step", 0) <= step:
            kept.append(line)
    replace_text(path, "".join(line + "\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all records of a metrics file; a torn last line is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
