"""A run that reads through DALI is the run that reads through torch's loader, step by step, and continues after a stop."""

from pathlib import Path

import pytest

from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import TINY, losses, records, train

pytest.importorskip("nvidia.dali", reason="nvidia-dali-cuda130 is not installed: 600 MB, an option")

EXTERNAL = "dataloader_type=external"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dali")
    write_dataset(root, library_texts(300_000))
    return root


def run(root: Path, name: str, *extra: str) -> None:
    words = [*TINY, f"data_path={root / 'data'}", f"save={root / name}", "eval_interval=5", "split=80,20,0", *extra]
    train("tiny_cpu_meap.yaml", *words)


def test_losses_are_those_of_the_default_loader_to_the_bit_after_a_stop_too(folder: Path) -> None:
    run(folder, "torch", "train_iters=12")
    run(folder, "dali", "train_iters=12", "exit_interval=7", EXTERNAL)
    assert max(losses(folder / "dali")) == 7
    run(folder, "dali", "train_iters=12", EXTERNAL)
    assert losses(folder / "dali") == losses(folder / "torch")
    evaluations = [
        [(line["step"], line["lm_loss"]) for line in records(folder / name / "metrics.jsonl", "validation")]
        for name in ("torch", "dali")
    ]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) >= 2
