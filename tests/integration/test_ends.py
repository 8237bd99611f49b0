"""How a run ends and continues: told to end, at an interval, complete, not finite, with another schedule."""

import os
import signal
import time
from pathlib import Path

import pytest

from meap_megatron.monitoring.status import look
from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import RECIPES, TINY, records, start, train, wait_for_step

RECIPE = "tiny_cpu_ntp.yaml"
CONSTANT = ["lr_decay_style=constant", "lr_warmup_fraction=null", "split=50,50,0", "num_layers=1", "save_interval=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ends")
    texts = library_texts(60_000)
    return write_dataset(root, texts, vocab_size=300, texts=texts)


def run(data: Path, folder: Path, *overrides: str, check: bool = True):  # noqa: ANN201
    return train(RECIPE, *TINY, *CONSTANT, f"data_path={data}", f"save={folder}", *overrides, check=check)


@pytest.mark.parametrize("sharded", ["false", "true"], ids=["plain", "distributed optimizer"])
def test_another_learning_rate_needs_the_override_and_then_is_used(data: Path, tmp_path: Path, sharded: str) -> None:
    common = [f"use_distributed_optimizer={sharded}"]
    first = run(data, tmp_path, *common, "train_iters=2", "lr=2.0e-3")
    assert f"meap: complete; saved {tmp_path / 'iter_0000002'}" in first.stdout
    refused = run(data, tmp_path, *common, "train_iters=4", "lr=1.0e-3", check=False)
    assert refused.returncode == 2
    assert (
        "lr=0.001 (0.002 in the checkpoint): give the settings of the checkpoint, or override_opt_param"
        in refused.stderr
    )
    run(data, tmp_path, *common, "train_iters=4", "lr=1.0e-3", "override_opt_param_scheduler=true")
    rates = [record["learning_rate"] for record in records(tmp_path / "metrics.jsonl", "step")]
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3, 1e-3])


def test_a_complete_run_is_made_longer_as_its_message_says(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, "train_iters=2")
    said = run(data, tmp_path, "train_iters=2").stdout
    assert (
        "complete at step 2 of 2; to train longer, raise train_iters and set override_opt_param_scheduler=true" in said
    )
    run(data, tmp_path, "train_iters=3", "override_opt_param_scheduler=true")
    assert [record["step"] for record in records(tmp_path / "metrics.jsonl", "step")] == [1, 2, 3]


def test_the_remedies_for_a_loss_that_is_not_finite_work(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, "train_iters=2")
    spoilt = ["train_iters=9", "lr=1.0e30", "override_opt_param_scheduler=true"]
    first = run(data, tmp_path, *spoilt, check=False)
    assert first.returncode == 16
    assert "of step 4 is not finite; skip its data (iterations_to_skip=[4]), or go back to step 2" in first.stdout
    again = run(data, tmp_path, *spoilt, check=False)
    assert again.returncode == 17 and "not finite again, so it is not an accident of the hardware" in again.stdout
    lower = ["train_iters=4", "lr=1.0e-3", "override_opt_param_scheduler=true"]
    assert "complete" in run(data, tmp_path, *lower, "ckpt_step=2").stdout


def test_the_data_of_a_step_is_skipped_as_the_message_for_a_loss_that_is_not_finite_says(
    data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path, "train_iters=3")
    longer = ["train_iters=5", "override_opt_param_scheduler=true"]
    done = run(data, tmp_path, *longer, "iterations_to_skip=[4]")
    assert f"continuing from {tmp_path} after step 3" in done.stdout
    assert f"meap: complete; saved {tmp_path / 'iter_0000005'}" in done.stdout
    steps = records(tmp_path / "metrics.jsonl", "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 5]
    assert all(record["lm_loss"] and record["grad_norm"] for record in steps)


def test_exit_interval_ends_quietly_and_says_what_is_saved(data: Path, tmp_path: Path) -> None:
    done = run(data, tmp_path, "train_iters=9", "exit_interval=3", "num_workers=1")
    assert done.stderr == ""
    saved = f"saved {tmp_path / 'iter_0000003'}; the same command continues from there"
    assert done.stdout.splitlines()[-1] == f"meap: stopped after step 3 of 9 (exit_interval=3); {saved}"


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl+C", "SIGTERM"])
def test_a_run_outside_slurm_saves_when_it_is_told_to_end(
    data: Path, tmp_path: Path, number: int, processes: int
) -> None:
    words = [*TINY, *CONSTANT, f"data_path={data}", f"save={tmp_path}", "train_iters=100000", "device=cpu"]
    words += ["save_interval=100000", f"nproc={processes}", "num_workers=1"]
    process = start("train", RECIPES / RECIPE, *words)
    wait_for_step(tmp_path / "metrics.jsonl", 2)
    os.killpg(process.pid, number)  # as a terminal does: launcher and ranks
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Traceback" not in said and "leaked" not in said
    steps = [record["step"] for record in records(tmp_path / "metrics.jsonl", "step")]
    assert (tmp_path / f"iter_{steps[-1]:07d}" / "meap_manifest.json").is_file()
    assert look(tmp_path, now=process_time(tmp_path)).state == "stopped"
    assert not (tmp_path / "run.lock").exists()


def test_a_run_that_is_told_to_end_while_it_starts_ends_in_order(data: Path, tmp_path: Path) -> None:
    words = [*TINY, *CONSTANT, f"data_path={data}", f"save={tmp_path}", "train_iters=100000", "device=cpu"]
    process = start("train", RECIPES / RECIPE, *words)
    while not (tmp_path / "logs" / "rank-0.log").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode in (0, 143), said  # 0: the first step was faster than the signal
    assert said == "" and not (tmp_path / "run.lock").exists()
    assert bool(list(tmp_path.glob("iter_*"))) == (process.returncode == 0)


def process_time(run: Path) -> float:
    return (run / "metrics.jsonl").stat().st_mtime + 1
