"""Every layout of tensor, pipeline and data parallelism computes what one process computes: losses, masks, checkpoints.

The tests of test_parity_pretraining.py and test_parity_fine_tuning.py, which give the `task` and say on which layouts and
with which optimizers (`on`): two files, so that they run side by side. All through `meap train` and Megatron's own trainer
over gloo, in float32, 20 steps from one initial
checkpoint, with and without the distributed optimizer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import tensors
from tests.support.runs import TINY, losses, records, traced, train

STEPS = 20
TP, PP, SP = "tensor_model_parallel_size=2", "pipeline_model_parallel_size=2", "sequence_parallel=true"
INTERLEAVED = "num_layers_per_virtual_pipeline_stage=1"
# TP x PP x DP
LAYOUTS: dict[str, list[str]] = {
    "1x1x1": [],
    "2x1x1": ["nproc=2", TP],
    "1x2x1": ["nproc=2", PP],
    "1x1x2": ["nproc=2"],
    "2x2x1": ["nproc=4", TP, PP],
    "2x1x2_sequence_parallel": ["nproc=4", TP, SP],
    "1x2x2_interleaved": ["nproc=4", PP, INTERLEAVED],
    "2x2x2": ["nproc=8", TP, PP],
}
OPTIMIZERS = {"adam": [], "distributed": ["use_distributed_optimizer=true"]}
RING = dict(zip(LAYOUTS, [*list(LAYOUTS)[1:], "1x1x1"], strict=True))


def on(runs: list[tuple[str, str]]) -> Callable[[Any], None]:
    """Return the `pytest_generate_tests` of a file whose tests are of these runs (layout, optimizer), or of every layout."""

    def pytest_generate_tests(metafunc: Any) -> None:
        if "optimizer" in metafunc.fixturenames:
            metafunc.parametrize("layout, optimizer", runs)
        elif "layout" in metafunc.fixturenames and not any(metafunc.definition.iter_markers("parametrize")):
            metafunc.parametrize("layout", LAYOUTS)

    return pytest_generate_tests


class Task:
    """Data, a recipe, an initial checkpoint, and the runs made from it so far."""

    def __init__(self, root: Path, recipe: str, settings: list[str]) -> None:
        self.root, self.recipe, self.settings = root, recipe, settings
        self.runs: dict[str, Path] = {}
        self.train("init", "train_iters=1", "eval_iters=0")

    def train(self, name: str, *settings: str, saves: bool = True) -> Path:
        """Train to the end and return the run's folder; without `saves` it holds the metrics alone."""
        run = self.root / name
        kept = [f"save={run}"] if saves else ["save=null", f"meap_metrics={run / 'metrics.jsonl'}"]
        train(self.recipe, *TINY, f"data_path={self.root / 'data'}", *kept, *self.settings, *settings)
        return run

    def run(self, layout: str, optimizer: str) -> Path:
        """Return the run of 20 steps on a layout; made once."""
        name = f"{layout}_{optimizer}"
        if name not in self.runs:
            self.runs[name] = self.train(
                name,
                f"pretrained_checkpoint={self.root / 'init'}",
                f"train_iters={STEPS}",
                "save_interval=10",
                f"meap_trace={self.root / name / 'trace'}",
                *LAYOUTS[layout],
                *OPTIMIZERS[optimizer],
            )
        return self.runs[name]


def assert_same_curve(run: Path, expected: Path, *, rel: float, steps: range = range(1, STEPS + 1)) -> None:
    """Compare every step's losses and gradient norm, and the last validation loss."""
    for field in ("lm_loss", "masked_loss", "other_loss", "grad_norm"):
        got, wanted = losses(run, field), losses(expected, field)
        assert sorted(got) == list(steps)
        assert got == pytest.approx({step: wanted[step] for step in steps}, rel=rel), field
    last = [records(x / "metrics.jsonl", "validation")[-1] for x in (run, expected)]
    assert last[0]["step"] == last[1]["step"] == STEPS
    assert last[0]["lm_loss"] == pytest.approx(last[1]["lm_loss"], rel=rel)


def test_a_layout_computes_what_one_process_computes(task: Task, optimizer: str, layout: str) -> None:
    run, one = task.run(layout, optimizer), task.run("1x1x1", "adam")
    assert_same_curve(run, one, rel=1e-5)


def test_every_rank_that_holds_tokens_holds_the_masks_of_one_process(task: Task, layout: str) -> None:
    run, one = task.run(layout, "distributed"), task.run("1x1x1", "adam")
    ranks = {name: len(traced(run, name)[1]) for name in ("tokens", "masked")}
    tp, pp, dp = (int(size) for size in layout[:5].split("x"))
    assert ranks == {"tokens": tp * dp, "masked": tp * dp}, "the first and the last stage hold them"
    for field in ("tokens", "masked"):
        expected, got = traced(one, field), traced(run, field)
        assert set(got) == set(expected) == set(range(1, STEPS + 1))
        for step, (rows,) in expected.items():
            # Each data-parallel replica holds its part of the rows, on each of its tensor-parallel ranks.
            replicas = {tuple(rank_rows) for rank_rows in got[step]}
            assert len(replicas) == dp
            assert sorted(row for replica in replicas for row in replica) == sorted(rows)


def test_a_checkpoint_holds_the_same_tensors_on_every_layout(task: Task, optimizer: str, layout: str) -> None:
    got, expected = tensors(task.run(layout, optimizer), 10), tensors(task.run("1x1x1", optimizer), 10)
    assert {name: value.shape for name, value in got.items()} == {k: v.shape for k, v in expected.items()}
    for name, value in expected.items():
        scale = float(value.abs().max()) or 1.0
        assert float((got[name] - value).abs().max()) <= 1e-4 * scale, name


def test_a_run_goes_on_from_the_checkpoint_of_another_layout(task: Task, optimizer: str, layout: str) -> None:
    assert_continues(task, optimizer, layout)


def assert_continues(task: Task, optimizer: str, layout: str) -> None:
    """Take the last 10 steps from the checkpoint of the layout's neighbour, and compare them with one process."""
    source = task.run(RING[layout], optimizer)
    run = task.train(
        f"{layout}_{optimizer}_resharded",
        f"load={source}",
        "ckpt_step=10",
        f"train_iters={STEPS}",
        *LAYOUTS[layout],
        *OPTIMIZERS[optimizer],
        saves=False,
    )
    assert_same_curve(run, task.run("1x1x1", "adam"), rel=1e-5, steps=range(11, STEPS + 1))
