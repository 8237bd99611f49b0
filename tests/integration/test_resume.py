"""A run that is killed continues to the last bit; a damaged checkpoint is named and passed over; a finished run ends.

All through `meap train` and Megatron's own trainer.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meap_megatron.checkpoint import manifest
from meap_megatron.checkpoint.check import inspect
from meap_megatron.launch.resume import LONGER
from tests.support.corpus import write_dataset
from tests.support.runs import RECIPES, TINY, kill_group, losses, meap, records, start, train
from tests.support.warm import WarmProcess

pytestmark = pytest.mark.slow
STEPS = 12
EVERY = 4
FIELDS = ("lm_loss", "masked_loss", "other_loss", "grad_norm", "learning_rate", "mask_fraction")
LAYOUTS = {
    "one process": ["nproc=1"],
    "tp2 pp2": ["nproc=4", "tensor_model_parallel_size=2", "pipeline_model_parallel_size=2"],
    "dp2 distributed optimizer": ["nproc=2", "use_distributed_optimizer=true"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    write_dataset(root, tuple(f"{n} times {m} is {n * m}. " * 6 for n in range(40) for m in range(10)))
    return root


def settings(root: Path, run: Path, *extra: str) -> list[str]:
    words = [*TINY, f"data_path={root / 'data'}", f"save={run}", f"train_iters={STEPS}", f"save_interval={EVERY}"]
    return [*words, "num_layers=2", *extra]


def command(root: Path, run: Path, *extra: str) -> list[str]:
    return ["train", str(RECIPES / "tiny_cpu_meap.yaml"), *settings(root, run, *extra), "device=cpu"]


def run_to_end(root: Path, run: Path, *extra: str) -> str:
    done = train("tiny_cpu_meap.yaml", *settings(root, run, *extra))
    return str(done.stdout)


def wait_until(process: WarmProcess, condition: Callable[[], bool], *, timeout: float = 120.0) -> None:
    """Wait for something that a running command brings about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"the run ended first: {process.communicate()[1]}"
        assert time.monotonic() < deadline, f"not reached in {timeout} s"
        time.sleep(0.002)


def kill_when(process: WarmProcess, condition: Callable[[], bool]) -> None:
    """End a run and all its ranks by SIGKILL as soon as `condition()` holds."""
    wait_until(process, condition)
    kill_group(process, signal.SIGKILL)


def assert_same_trajectory(run: Path, expected: Path) -> None:
    for field in FIELDS:
        assert sorted(losses(run, field)) == list(range(1, STEPS + 1))
        assert losses(run, field) == losses(expected, field), field
    steps = [line["step"] for line in records(run / "metrics.jsonl", "step")]
    assert steps == sorted(set(steps)), "a step is in the metrics twice"


_uninterrupted: dict[str, Path] = {}


def uninterrupted(root: Path, layout: str) -> Path:
    """Return a run of this layout that nothing disturbed; made once."""
    if layout not in _uninterrupted:
        run = root / f"whole {layout}"
        run_to_end(root, run, *LAYOUTS[layout])
        _uninterrupted[layout] = run
    return _uninterrupted[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_killed_while_it_saves_goes_on_to_the_last_bit(folder: Path, tmp_path: Path, layout: str) -> None:
    run = tmp_path / "killed"
    process = start(*command(folder, run, *LAYOUTS[layout]))
    newest = run / "iter_0000008"
    # Tensors are being written: the first file of a rank has appeared, the manifest still says "unfinished".
    kill_when(process, lambda: any(newest.glob("*.distcp")))
    assert inspect(newest, "sizes").state == "unfinished"
    assert inspect(run / "iter_0000004", "full").state == "good"
    said = run_to_end(folder, run, *LAYOUTS[layout])
    assert "iter_0000008 is unfinished" in said
    assert records(run / "metrics.jsonl", "start")[-1]["step"] == 4
    assert_same_trajectory(run, uninterrupted(folder, layout))
    meap("checkpoint", "verify", run)
    layouts = {read.layout["world"] for read in map(manifest.read, sorted(run.glob("iter_*"))) if read}
    assert layouts == {int(LAYOUTS[layout][0].removeprefix("nproc="))}


def test_a_run_killed_between_two_saves_goes_on_to_the_last_bit(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start(*command(folder, run))
    kill_when(process, lambda: (run / "metrics.jsonl").exists() and max(losses(run), default=0) >= 6)
    assert max(losses(run)) >= 6
    run_to_end(folder, run)
    assert records(run / "metrics.jsonl", "start")[-1]["step"] in (4, 8)
    assert_same_trajectory(run, uninterrupted(folder, "one process"))


def test_a_run_killed_in_its_first_save_starts_again(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = start(*command(folder, run))
    kill_when(process, lambda: any((run / "iter_0000004").glob("*.distcp")))
    (run / "latest_checkpointed_iteration.txt").write_text("")  # torn: Megatron would end with status 0 here
    said = run_to_end(folder, run)
    assert "holds no finished checkpoint: starting again" in said
    assert_same_trajectory(run, uninterrupted(folder, "one process"))


@pytest.fixture
def stopped(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the uninterrupted run as it was after step 8."""
    import shutil

    run = tmp_path / "stopped"
    shutil.copytree(uninterrupted(folder, "one process"), run)
    shutil.rmtree(run / "iter_0000012")
    (run / "latest_checkpointed_iteration.txt").write_text("8")
    return run


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def test_a_damaged_newest_checkpoint_is_named_kept_and_passed_over(folder: Path, stopped: Path) -> None:
    flip_a_byte(stopped / "iter_0000008" / "__0_0.distcp")
    said = run_to_end(folder, stopped)
    assert "iter_0000008 is damaged: __0_0.distcp: expected" in said
    assert "continuing from iter_0000004" in said
    assert (stopped / "damaged-iter_0000008").is_dir()
    assert_same_trajectory(stopped, uninterrupted(folder, "one process"))
    meap("checkpoint", "verify", stopped)


def test_without_any_good_checkpoint_nothing_is_trained(folder: Path, stopped: Path) -> None:
    for step in (4, 8):
        cut_short(stopped / f"iter_{step:07d}" / "__0_0.distcp")
    before = sorted(path.name for path in stopped.iterdir())
    done = train("tiny_cpu_meap.yaml", *settings(folder, stopped), check=False)
    assert done.returncode == 2
    assert "iter_0000008 is damaged" in done.stderr and "iter_0000004 is damaged" in done.stderr
    assert sorted(path.name for path in stopped.iterdir()) == before


def test_a_finished_run_ends_before_megatron_is_imported_and_goes_on_when_its_end_is_moved(
    folder: Path, stopped: Path, tmp_path: Path
) -> None:
    for name in ("torch", "megatron"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text("raise ImportError('must not be imported')")
    metrics = (stopped / "metrics.jsonl").read_text()
    words = command(folder, stopped, "train_iters=8")
    done = meap(*words, cold=True, PYTHONPATH=str(tmp_path / "hidden"))
    assert done.stdout.strip() == f"complete at step 8 of 8; {LONGER}"
    assert (stopped / "metrics.jsonl").read_text() == metrics
    run_to_end(folder, stopped)
    assert max(losses(stopped)) == STEPS


def test_old_checkpoints_are_removed_when_asked_and_two_stay(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "pruned"
    run_to_end(folder, run, "save_interval=3", "meap_keep_checkpoints=2")
    assert sorted(path.name for path in run.glob("*iter_*")) == ["iter_0000009", "iter_0000012"]
    assert all(inspect(path, "full").state == "good" for path in run.glob("iter_*"))


def test_a_signal_and_an_asynchronous_save_leave_a_manifest_too(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "signalled"
    extra = ["save_interval=1000", "exit_signal_handler=true", "async_save=true", "async_strategy=mcore"]
    process = start(*command(folder, run, "train_iters=100000", *extra))
    wait_until(process, lambda: (run / "metrics.jsonl").exists() and bool(losses(run)))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    (checkpoint,) = run.glob("iter_*")
    found = inspect(checkpoint, "full", read_index=True)
    assert found.state == "good"
    listed = json.loads(meap("checkpoint", "list", run, "--json").stdout)
    assert listed["would_load"] == int(checkpoint.name.removeprefix("iter_"))


def test_a_recipe_in_bfloat16_runs_in_float32_on_a_cpu_and_its_checkpoints_continue_in_either(
    folder: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"extends: {RECIPES / 'tiny_cpu_meap.yaml'}\nprecision: bf16\nuse_distributed_optimizer: true\n")
    words = [*settings(folder, tmp_path / "run"), "train_iters=6", "save_interval=2", "device=cpu"]
    said = [
        meap("train", recipe, *words, "exit_interval=2"),
        meap("train", recipe, *words, "exit_interval=4", "precision=bf16"),
        meap("train", recipe, *words),
    ]
    assert ["this run is float32" in done.stdout for done in said] == [True, False, True]
    other = meap("train", recipe, *words, "train_iters=8", "use_distributed_optimizer=false", check=False)
    assert (
        other.returncode == 2 and "was saved with the distributed optimizer, and this run has float32" in other.stderr
    )
    alone = [*settings(folder, tmp_path / "alone"), "train_iters=6", "save_interval=6", "device=cpu"]
    meap("train", recipe, *alone)
    for field in ("lm_loss", "grad_norm"):
        got, wanted = losses(tmp_path / "run", field), losses(tmp_path / "alone", field)
        assert {step: got[step] for step in (1, 2)} == {step: wanted[step] for step in (1, 2)}
        assert got != wanted and got == pytest.approx(wanted, rel=2e-2), field
