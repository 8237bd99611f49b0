"""Fine-tuning on every layout: see tests/integration/parity.py."""

import pytest

from tests.integration.parity import (  # noqa: F401
    LAYOUTS,
    Task,
    assert_continues,
    on,
    test_a_checkpoint_holds_the_same_tensors_on_every_layout,
    test_a_layout_computes_what_one_process_computes,
    test_every_rank_that_holds_tokens_holds_the_masks_of_one_process,
)
from tests.support.conversations import docstring_rows, write_chat_dataset

pytestmark = pytest.mark.slow
# Pre-training runs every layout with both optimizers; packed rows meet plain Adam where all dimensions are split.
pytest_generate_tests = on([*((layout, "distributed") for layout in LAYOUTS), ("2x2x2", "adam")])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("parity_sft")
    write_chat_dataset(root, docstring_rows(1500), max_length=225)
    settings = "seq_length=224 max_position_embeddings=224 global_batch_size=4 micro_batch_size=1 split=98,2,0".split()
    return Task(root, "tiny_cpu_sft_meap.yaml", settings)


def test_a_run_goes_on_from_the_checkpoint_of_another_layout(task: Task, layout: str) -> None:
    # The checkpoints are those of pre-training, which continues with both optimizers.
    assert_continues(task, "distributed", layout)
