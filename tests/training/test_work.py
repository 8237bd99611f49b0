"""MFU of packed rows: what the ranks counted is added up once per step, and averaged where a record is of several steps."""

from types import SimpleNamespace

import pytest
import torch
from megatron.training import training

from meap_megatron.planning.job import read
from meap_megatron.training import work
from meap_megatron.training.work import SegmentWork, StepWork, flops_of_step
from tests.support.runs import RECIPES

ARGS = SimpleNamespace(global_batch_size=4)


def test_a_step_ends_with_the_sum_over_the_job_and_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(2))  # a second rank with the same
    counted = StepWork()
    assert counted.mean() == (None, None)
    counted.add(SegmentWork(tokens=10, squares=60))
    counted.add(SegmentWork(tokens=5, squares=15))
    assert counted.end_step() == (30.0, 150.0)
    counted.add(SegmentWork(tokens=20, squares=100))
    assert counted.end_step() == (40.0, 200.0)
    assert counted.mean() == (35.0, 175.0)
    assert counted.mean() == (None, None)


def test_operations_follow_the_segments_by_megatrons_own_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[float | None, float | None]] = []

    def formula(
        args: object,
        batch_size: int,
        seqlen_squared_sum_in_batch: float | None,
        total_real_tokens_in_batch: float | None,
    ) -> float:
        assert batch_size == 4
        given.append((total_real_tokens_in_batch, seqlen_squared_sum_in_batch))
        return 1.0

    monkeypatch.setattr(training, "num_floating_point_operations", formula)
    monkeypatch.setattr(work, "STEP", StepWork())
    work.STEP.ended, work.STEP.sums = 2, (300.0, 9000.0)
    assert flops_of_step(ARGS) == flops_of_step(ARGS) == 1.0
    assert given == [(150.0, 4500.0), (None, None)]


def test_a_plan_counts_the_operations_of_every_kind_of_layer_as_megatron_does() -> None:
    sizes = {
        **{
            "hidden_size": 96,
            "num_attention_heads": 6,
            "kv_channels": 16,
            "num_query_groups": 2,
            "ffn_hidden_size": 160,
        },
        **{"mamba_state_dim": 24, "mamba_head_dim": 32, "mamba_num_groups": 2},
        **{
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
        },
        **{"linear_conv_kernel_dim": 3, "seq_length": 64, "max_position_embeddings": 64},
    }
    words = [*(f"{name}={size}" for name, size in sizes.items()), "hybrid_layer_pattern=MG*-M-", "num_layers=null"]
    model = read(RECIPES / "tiny_cpu_ntp.yaml", [*words, "group_query_attention=true"], vocabulary=320).model(1)
    absent = ("num_experts", "mtp_num_layers", "mamba_num_heads", "moe_latent_size", "moe_ffn_hidden_size")
    args = SimpleNamespace(
        **sizes,
        **dict.fromkeys((*absent, "moe_shared_expert_intermediate_size", "experimental_attention_variant")),
        hybrid_layer_pattern="MG*-M-",
        group_query_attention=True,
        swiglu=True,
        moe_router_topk=1,
        padded_vocab_size=model.vocabulary,
    )
    assert model.flop_per_token(64) == pytest.approx(
        training.num_floating_point_operations(args, 5) / (5 * 64), rel=1e-12
    )
