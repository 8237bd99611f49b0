"""Metrics files as the trainer writes them, made by the trainer's own writer."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meap_megatron.training.metrics import RunMetrics, RunShape

BEGAN = 1_700_000_000.0


class Wall:
    """Seconds since 1970 that pass only when told to."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


def write_run(
    folder: Path,
    losses: Iterable[float],
    *,
    start: int = 0,
    train_steps: int = 100,
    close: bool = True,
    tokens_per_step: int = 1000,
    **settings: Any,
) -> Path:
    """Let the trainer's writer record one start of a run; a step takes 2 s, and half a second passes between two."""
    wall = Wall()
    shape = RunShape(
        train_steps=train_steps,
        tokens_per_step=tokens_per_step,
        flops_of_step=lambda: 3e9,
        peak_flops=1e10,
        log_interval=10,
    )
    settings = {"train_iters": train_steps, "world_size": 1, "device": "cpu"} | settings
    path = folder / "metrics.jsonl"
    metrics = RunMetrics(path=path, shape=shape, settings=settings, start_step=start, clock=wall, wall=wall)
    for step, loss in enumerate(losses, start=start + 1):
        metrics.forward_begins()
        wall.now += 2.0
        metrics.add_scalar("lm loss", loss, step)
        metrics.add_scalar("masked loss", loss + 1.0, step)
        metrics.add_scalar("other loss", loss - 0.1, step)
        metrics.add_scalar("learning-rate", 1e-3, step)
        metrics.add_scalar("grad-norm", 0.5, step)
        wall.now += 0.5
    if close:
        metrics.close()
    return folder


def append(folder: Path, *records: dict[str, Any] | str) -> Path:
    """Write lines behind those of a run; text as it stands, without a line end."""
    with (folder / "metrics.jsonl").open("a") as stream:
        for record in records:
            stream.write(record if isinstance(record, str) else json.dumps(record) + "\n")
    return folder
