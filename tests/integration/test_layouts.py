"""The same run on one process and on two, by tensor, pipeline and data parallelism, and after a stop.

All through `meap train` and Megatron's own trainer, from one initial checkpoint. Losses are compared step by step, masks bit
by bit (`meap_trace`).
"""

import math
from pathlib import Path

import pytest

from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import TINY, losses, records, traced, train

pytestmark = pytest.mark.slow
STEPS = 100
LAYOUTS = {
    "tp2": ["nproc=2", "tensor_model_parallel_size=2"],
    "tp2_sp": ["nproc=2", "tensor_model_parallel_size=2", "sequence_parallel=true"],
    "pp2": ["nproc=2", "pipeline_model_parallel_size=2"],
    "dp2": ["nproc=2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    write_dataset(root, library_texts())
    train("tiny_cpu_meap.yaml", *common(root, "init"), "train_iters=1", "eval_iters=0")
    return root


def common(root: Path, name: str) -> list[str]:
    return [*TINY, f"data_path={root / 'data'}", f"save={root / name}", f"meap_trace={root / name / 'trace'}"]


def full(root: Path, name: str, *extra: str) -> Path:
    train(
        "tiny_cpu_meap.yaml",
        *common(root, name),
        f"pretrained_checkpoint={root / 'init'}",
        f"train_iters={STEPS}",
        *extra,
    )
    return root / name


@pytest.fixture(scope="module")
def one_process(folder: Path) -> Path:
    return full(folder, "one")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_compute_what_one_computes_from_the_same_masks(
    folder: Path, one_process: Path, layout: str
) -> None:
    run = full(folder, layout, *LAYOUTS[layout])
    assert sorted(losses(run)) == list(range(1, STEPS + 1))
    # Summation order differs between layouts, and 100 steps of training amplify that: most of all in the gradient.
    for field, tolerance in {"lm_loss": 1e-4, "masked_loss": 1e-4, "other_loss": 1e-4, "grad_norm": 2e-3}.items():
        expected, got = losses(one_process, field), losses(run, field)
        for step, value in expected.items():
            assert got[step] == pytest.approx(value, rel=tolerance), f"{field} at step {step}"
    assert losses(run, "mask_fraction") == losses(one_process, "mask_fraction")
    (expected, *_), (got, *_) = (records(path / "metrics.jsonl", "validation") for path in (one_process, run))
    assert got["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=1e-4)
    assert 1 < got["bits_per_byte"] < got["lm_loss"] / math.log(2)
    for field in ("tokens", "masked"):
        expected, got = traced(one_process, field), traced(run, field)
        assert set(got) == set(range(1, STEPS + 1))
        for step, (rows,) in expected.items():
            if layout == "dp2":
                assert sorted(got[step][0] + got[step][1]) == sorted(rows)
            else:
                assert all(rank_rows == rows for rank_rows in got[step])
    ranks = (1, 1) if layout == "pp2" else (2, 2)
    assert (len(traced(run, "tokens")[1]), len(traced(run, "masked")[1])) == ranks


def test_a_run_stopped_half_way_goes_on_exactly(folder: Path, one_process: Path) -> None:
    full(folder, "resumed", f"exit_interval={STEPS // 2}")
    assert max(losses(folder / "resumed")) == STEPS // 2
    full(folder, "resumed")
    for field in ("lm_loss", "masked_loss", "grad_norm"):
        assert losses(folder / "resumed", field) == losses(one_process, field)


def test_the_masked_share_is_what_the_recipe_says(one_process: Path) -> None:
    # max(1, floor(64 * 0.15)) = 9 of 64 positions in every sample.
    assert set(losses(one_process, "mask_fraction").values()) == {9 / 64}
