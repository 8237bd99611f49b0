"""Pre-training on every layout: see tests/integration/parity.py."""

from pathlib import Path

import pytest

from tests.integration.parity import (  # noqa: F401
    LAYOUTS,
    OPTIMIZERS,
    STEPS,
    Task,
    on,
    test_a_checkpoint_holds_the_same_tensors_on_every_layout,
    test_a_layout_computes_what_one_process_computes,
    test_a_run_goes_on_from_the_checkpoint_of_another_layout,
    test_every_rank_that_holds_tokens_holds_the_masks_of_one_process,
)
from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import losses

pytestmark = pytest.mark.slow
pytest_generate_tests = on([(layout, optimizer) for layout in LAYOUTS for optimizer in OPTIMIZERS])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("parity_pretrain")
    write_dataset(root, library_texts(2_000_000))
    return Task(root, "tiny_cpu_meap.yaml", ["micro_batch_size=2"])


@pytest.mark.parametrize("layout", ["2x1x2_sequence_parallel", "1x2x2_interleaved", "2x2x2"])
def test_bfloat16_layouts_agree_within_its_own_rounding(task: Task, layout: str) -> None:
    def run(name: str, layout: str, *words: str) -> Path:
        settings = [f"train_iters={STEPS}", "global_batch_size=4", "micro_batch_size=1"]
        settings.append(f"pretrained_checkpoint={task.root / 'init'}")
        return task.train(name, *settings, *LAYOUTS[layout], *OPTIMIZERS["distributed"], *words, saves=False)

    one, exact = task.root / "bf16_1x1x1", task.root / "float32_1x1x1"
    if not one.exists():
        run(one.name, "1x1x1", "precision=bf16")
        run(exact.name, "1x1x1")
    several = run(f"bf16_{layout}", layout, "precision=bf16")
    # bfloat16 keeps 8 bits: one rounding is 2^-9 = 0.2 %.
    assert losses(several) == pytest.approx(losses(one), rel=2e-3)
    assert losses(several) != losses(one)
    assert losses(one) == pytest.approx(losses(exact), rel=1e-2)
