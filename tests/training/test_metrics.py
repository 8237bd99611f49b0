"""metrics.jsonl holds each step's own values, survives a resume, and the progress line can be read."""

import dataclasses
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meap_megatron.training.metrics import (
    STEP_FIELDS,
    VALIDATION_FIELDS,
    RunMetrics,
    RunShape,
    clock_time,
    progress_line,
    read_metrics,
)

SHAPE = RunShape(train_steps=4, tokens_per_step=1000, flops_of_step=lambda: 3e9, peak_flops=1e10, log_interval=2)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def metrics_of(
    path: Path,
    *,
    start: int = 0,
    screen: Any = None,
    inner: Any = None,
    clock: Any = None,
    settings: dict[str, Any] | None = None,
) -> RunMetrics:
    return RunMetrics(
        path=path,
        shape=SHAPE,
        settings=settings or {"seed": 1},
        start_step=start,
        screen=screen,
        inner=inner,
        clock=clock or time.perf_counter,
        wall=lambda: 1_700_000_000.125,
    )


def log_step(metrics: RunMetrics, step: int, loss: float, *, masked: float | None = None) -> None:
    """Send the scalars of one step as Megatron's training_log does."""
    metrics.add_scalar("learning-rate", 1e-3, step)
    metrics.add_scalar("batch-size", 8, step)
    metrics.add_scalar("lm loss", loss, step)
    metrics.add_scalar("lm loss vs samples", loss, step * 8)
    if masked is not None:
        metrics.add_scalar("masked loss", masked, step)
        metrics.add_scalar("other loss", loss - 0.1, step)
        metrics.add_scalar("mask fraction", 0.15, step)
    metrics.add_scalar("grad-norm", 0.5, step)


def test_a_step_becomes_one_record_with_its_own_time(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "metrics.jsonl"
    metrics = metrics_of(path, clock=clock)
    clock.now = 10.0  # loading the data does not count
    metrics.forward_begins()
    clock.now = 11.0
    metrics.forward_begins()  # the second micro-batch
    clock.now = 12.0
    log_step(metrics, 1, 3.0, masked=4.0)
    metrics.close()
    start, step, end = read_metrics(path)
    assert {record.pop("time") for record in (start, step, end)} == {1_700_000_000.12}
    assert start == {"event": "start", "step": 0, "run": {"seed": 1}}
    assert step == {
        "event": "step",
        "step": 1,
        "lm_loss": 3.0,
        "masked_loss": 4.0,
        "other_loss": 2.9,
        "mask_fraction": 0.15,
        "trained_fraction": None,
        "learning_rate": 1e-3,
        "grad_norm": 0.5,
        "consumed_tokens": 1000,
        "tokens_per_second": 500.0,
        "mfu": 0.15,
        "seconds": 2.0,
    }
    assert end == {"event": "end", "step": 1, "seconds": 12.0, "status": 0}


def test_a_validation_loss_is_recorded_where_megatron_counts_the_sets(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path / "m.jsonl")
    log_step(metrics, 2, 3.0)
    for index, loss in enumerate((2.7, 2.9)):
        metrics.add_scalar(f"lm loss validation-{index}", loss, 2)
        metrics.add_scalar(f"lm loss validation-{index} vs samples", loss, 16)
    metrics.close()
    events = [(r["event"], r["lm_loss"]) for r in read_metrics(tmp_path / "m.jsonl") if "lm_loss" in r]
    assert events == [("step", 3.0), ("validation", 2.7), ("validation", 2.9)]


def test_bits_per_byte_of_a_validation_are_recorded_and_shown(tmp_path: Path) -> None:
    screen = io.StringIO()
    metrics = metrics_of(tmp_path / "m.jsonl", screen=screen)
    metrics.add_scalar("lm loss validation", 2.7, 2)
    metrics.add_scalar("bits per byte validation", 1.25, 2)
    metrics.close()
    assert read_metrics(tmp_path / "m.jsonl")[1]["bits_per_byte"] == 1.25
    assert screen.getvalue() == "step      2  validation loss 2.7000  1.2500 bits/byte\n"


def test_validation_and_test_set_are_told_apart(tmp_path: Path) -> None:
    metrics = metrics_of(tmp_path / "m.jsonl")
    metrics.shape = dataclasses.replace(SHAPE, evaluations_at_end=("validation", "validation", "test"))
    for step, losses in ((2, [2.7]), (4, [2.5, 2.5, 2.6])):
        log_step(metrics, step, 3.0)
        for loss in losses:
            metrics.add_scalar("lm loss validation", loss, step)
            metrics.add_scalar("lm loss validation vs samples", loss, step * 8)
    metrics.close()
    events = [(r["event"], r["step"], r["lm_loss"]) for r in read_metrics(tmp_path / "m.jsonl") if "lm_loss" in r]
    assert events == [
        ("step", 2, 3.0),
        ("validation", 2, 2.7),
        ("step", 4, 3.0),
        ("validation", 4, 2.5),
        ("validation", 4, 2.5),
        ("test", 4, 2.6),
    ]


def test_a_resumed_run_drops_the_steps_it_will_repeat(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    metrics = metrics_of(path)
    for step in (1, 2, 3):
        log_step(metrics, step, 3.0)
    path.write_text(path.read_text() + '{"event": "step", "st')  # killed while writing
    resumed = metrics_of(path, start=2)
    log_step(resumed, 3, 2.0)
    resumed.close()
    steps = [(r["step"], r["lm_loss"]) for r in read_metrics(path) if r["event"] == "step"]
    assert steps == [(1, 3.0), (2, 3.0), (3, 2.0)]


def test_a_run_that_starts_anew_keeps_the_old_file_aside(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"event": "step", "step": 7, "lm_loss": 1.0}\n')
    metrics_of(path).close()
    assert json.loads((tmp_path / "m.1.jsonl").read_text())["step"] == 7
    assert all(record.get("step") == 0 for record in read_metrics(path))


def test_how_a_run_ended_is_in_its_last_record(tmp_path: Path) -> None:
    for name, error in (("stopped", SystemExit(16)), ("failed", OSError(28, "No space left on device"))):
        metrics = metrics_of(tmp_path / name)
        log_step(metrics, 1, 3.0)
        try:
            raise error
        except BaseException:
            metrics.close(failed=name == "failed")
    last = [read_metrics(tmp_path / name)[-1] for name in ("stopped", "failed")]
    assert [record["event"] for record in last] == ["end", "failed"]
    assert last[0]["status"] == 16
    assert last[1]["error"] == "OSError: [Errno 28] No space left on device"
    metrics_of(tmp_path / "failed", start=1)
    assert [record["event"] for record in read_metrics(tmp_path / "failed")] == ["start", "step", "start"]


def test_the_progress_line_reads_well(tmp_path: Path) -> None:
    clock, screen = Clock(), io.StringIO()
    metrics = metrics_of(tmp_path / "m.jsonl", start=1, screen=screen, clock=clock)
    metrics.forward_begins()
    clock.now = 2.0
    log_step(metrics, 2, 3.25, masked=4.0)
    assert screen.getvalue() == (
        "step      2/4  loss 3.2500  (masked 4.0000, other 3.1500)  grad 0.500  lr 1.00e-03  500 tokens/s  MFU 15%  "
        "ETA 0:04\n"
    )


def test_no_mfu_is_stated_from_the_step_on_that_exceeds_the_peak(tmp_path: Path) -> None:
    clock, screen, path = Clock(), io.StringIO(), tmp_path / "m.jsonl"
    metrics = metrics_of(path, screen=screen, clock=clock)
    for step, seconds in ((1, 2.0), (2, 0.25), (3, 2.0)):
        metrics.forward_begins()
        clock.now += seconds
        log_step(metrics, step, 3.0)
    shares = [record["mfu"] for record in read_metrics(path) if record["event"] == "step"]
    assert shares == [0.15, None, None], "0.25 s would be 120 %"
    assert ["MFU" in line for line in screen.getvalue().splitlines()] == [True, False, False]


def test_a_record_that_stands_for_several_steps_is_timed_per_step(tmp_path: Path) -> None:
    clock = Clock()
    metrics = metrics_of(tmp_path / "m.jsonl", clock=clock)
    metrics.forward_begins()
    clock.now = 4.0
    log_step(metrics, 2, 3.0)  # tensorboard_log_interval=2
    assert [(r["seconds"], r["tokens_per_second"]) for r in read_metrics(tmp_path / "m.jsonl")[1:]] == [(2.0, 500.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_that_json_lacks_is_ever_written(tmp_path: Path, value: float) -> None:
    """Whichever scalar, setting or time is not finite: other programs read the file too."""
    metrics = metrics_of(tmp_path / "m.jsonl", settings={"lr": value, "betas": [0.9, value], "data": {"share": value}})
    for tag in STEP_FIELDS:
        metrics.add_scalar(tag, value, 1)
    for tag in VALIDATION_FIELDS:
        metrics.add_scalar(tag, value, 1)
    metrics.close()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (tmp_path / "m.jsonl").read_text()
    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [record["event"] for record in found] == ["start", "step", "validation", "end"]
    assert found[0]["run"] == {"lr": None, "betas": [0.9, None], "data": {"share": None}}
    assert {found[1][name] for name in STEP_FIELDS.values()} == {None}


def test_every_scalar_still_reaches_tensorboard(tmp_path: Path) -> None:
    class Writer:
        seen: list[str] = []

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.seen.append(tag)

        def flush(self) -> None:
            self.seen.append("flushed")

        def close(self) -> None:
            self.seen.append("closed")

    clock = Clock()
    metrics = metrics_of(tmp_path / "m.jsonl", inner=Writer(), clock=clock)
    metrics.forward_begins()
    clock.now = 2.0
    log_step(metrics, 1, 3.0)
    metrics.flush()
    metrics.close()
    for tag in ("lm loss", "batch-size", "tokens-per-second", "mfu", "flushed", "closed"):
        assert tag in Writer.seen


def test_times_are_written_as_clocks_show_them() -> None:
    assert [clock_time(s) for s in (0.4, 61, 3725)] == ["0:00", "1:01", "1:02:05"]


@pytest.mark.parametrize(("loss", "shown"), [(2.0, "other -)"), (None, "other nan)")])
def test_a_mean_over_no_position_is_a_dash_and_no_alarm(loss: float | None, shown: str) -> None:
    shape = SimpleNamespace(train_steps=4, tokens_per_step=10, peak_flops=None)
    record = {
        "step": 1,
        "lm_loss": loss,
        "masked_loss": 2.0,
        "other_loss": None,
        "grad_norm": None,
        "learning_rate": None,
    }
    assert shown in progress_line(record, shape, [1.0], flops=1.0)
