"""With FP8 switched on, Megatron's own block enters FP8 in training and never in evaluation, whatever the recipe."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from meap_megatron.launch import megatron_import

megatron_import.import_megatron()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.fp8_utils import get_fp8_context  # noqa: E402
from megatron.core.transformer import transformer_block  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlock  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from meap_megatron.training import step  # noqa: E402
from meap_megatron.training.torch_layers import block_spec  # noqa: E402
from tests.training.test_host_waits import batch_settings  # noqa: E402


@pytest.fixture(scope="module")
def block() -> Iterator[Any]:
    """A block of two layers, built by Megatron on a CPU; FP8 is set afterwards, since layers for it need a GPU."""
    # A group of one rank that starts no thread: other tests fork from this process.
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        config = TransformerConfig(
            num_layers=2, hidden_size=8, num_attention_heads=2, use_cpu_initialization=True, normalization="RMSNorm"
        )
        yield TransformerBlock(config, block_spec(SimpleNamespace(transformer=config)))
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


class Model(torch.nn.Module):
    """What the forward step calls: a block behind a wrapper, as data parallelism wraps it."""

    def __init__(self, block: Any, vp_stage: int | None = None) -> None:
        super().__init__()
        self.block, self.vp_stage = block, vp_stage

    def forward(self, *unused: Any, **also_unused: Any) -> Any:
        return self.block(torch.zeros(4, 1, 8), None)


def entered(block: Any, monkeypatch: pytest.MonkeyPatch, recipe: str, *, training: bool) -> list[Any]:
    """Return `config.fp8` at each of Megatron's questions for an FP8 context in one forward step of ours."""
    asked: list[Any] = []

    def spy(config: Any, layer: int = -1, is_init: bool = False) -> Any:
        asked.append(config.fp8)
        return get_fp8_context(config, layer, is_init)

    monkeypatch.setattr(transformer_block, "get_fp8_context", spy)
    monkeypatch.setattr(step, "text_bytes", lambda prefixes: None)
    monkeypatch.setattr(step, "get_batch", lambda *a, **k: SimpleNamespace(**dict.fromkeys(BATCH)))
    block.config.fp8, block.config.fp8_recipe = "hybrid", recipe
    settings = step.StepSettings(
        **vars(batch_settings(packed=False)),
        meap_mask_ratio=0.15,
        meap_mask_validation=False,
        meap_loss_on="all",
        meap_pair_weight=1.0,
        micro_batch_size=1,
        eval_micro_batch_size=1,
        check_for_nan_in_loss_and_grad=False,
    )
    forward_step = step.make_forward_step(settings, is_sft=False, prefixes=[])
    model = Model(block)
    model.train(training)
    try:
        with torch.no_grad():
            forward_step(None, model)
    finally:
        assert block.config.fp8 == "hybrid", "the model's own setting has to come back"
    return asked


BATCH = ("tokens", "position_ids", "attention_mask", "labels", "packed", "loss_mask", "marks", "work")


@pytest.mark.parametrize(("recipe", "questions"), [("delayed", 1), ("tensorwise", 2), ("blockwise", 2), ("mxfp8", 2)])
def test_fp8_is_entered_in_training_and_not_in_evaluation(
    block: Any, monkeypatch: pytest.MonkeyPatch, recipe: str, questions: int
) -> None:
    assert entered(block, monkeypatch, recipe, training=True) == ["hybrid"] * questions
    assert entered(block, monkeypatch, recipe, training=False) == []


def test_a_failed_evaluation_leaves_training_in_fp8(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*unused: Any, **also_unused: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(block.layers[0], "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        entered(block, monkeypatch, "delayed", training=False)
