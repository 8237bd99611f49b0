"""A layout that does not fit the model or the number of processes is refused with the numbers, without Megatron."""

from typing import Any

import pytest

from meap_megatron.launch.named_settings import Settings
from meap_megatron.launch.parallelism import findings, of_settings
from meap_megatron.launch.recipe import Setting

FITTING: dict[str, Any] = {
    "num_layers": 24,
    "hidden_size": 2048,
    "ffn_hidden_size": 5632,
    "num_attention_heads": 32,
    "group_query_attention": True,
    "num_query_groups": 4,
    "seq_length": 4096,
    "max_position_embeddings": 4096,
    "global_batch_size": 1024,
    "micro_batch_size": 2,
    "tensor_model_parallel_size": 4,
    "pipeline_model_parallel_size": 4,
    "context_parallel_size": 2,
    "sequence_parallel": True,
    "num_layers_per_virtual_pipeline_stage": 3,
}
"""1,024 processes: tensor 4 x pipeline 4 x context 2 x data 32."""


def found(changes: dict[str, Any], *, world: int = 1024) -> list[str]:
    table = {name: Setting(value=value, origin="recipe.yaml:7") for name, value in (FITTING | changes).items()}
    settings = Settings(table=table)
    return list(map(str, findings(settings, of_settings(settings, world=world))))


def test_a_layout_that_fits_has_no_findings() -> None:
    assert found({}) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"num_attention_heads": 30, "num_query_groups": 30, "kv_channels": 64},
            "num_attention_heads=30 is not divisible",
        ),
        (
            {"num_query_groups": 6, "num_attention_heads": 24, "kv_channels": 64},
            "num_query_groups=6 is neither a multiple",
        ),
        ({"num_query_groups": 12}, "num_query_groups=12 does not divide num_attention_heads=32"),
        ({"hidden_size": 2052}, "hidden_size=2052 is not divisible by num_attention_heads=32"),
        (
            {"num_layers": 22},
            "num_layers=22 is not divisible by pipeline_model_parallel_size=4; choose one of 1, 2, 11, 22",
        ),
        (
            {"num_layers_per_virtual_pipeline_stage": 4},
            "does not divide the 6 layers of a pipeline stage (24 / 4); choose one",
        ),
        ({"ffn_hidden_size": 5630}, "ffn_hidden_size=5630 (the feed-forward layer) is not divisible"),
        ({"padded_vocab_size": 32002}, "padded_vocab_size=32002 (the rows of the embedding) is not divisible"),
        ({"seq_length": 4090}, "seq_length=4090 is not divisible by 2 x context_parallel_size = 4"),
        ({"seq_length": 4092, "micro_batch_size": 1}, "over which sequence_parallel cuts it; use 4096"),
        ({"seq_length": 8192}, "seq_length=8192 is longer than max_position_embeddings=4096"),
        (
            {"global_batch_size": 1000},
            "global_batch_size=1,000 is not divisible by 32 data-parallel ranks x micro_batch_size 2",
        ),
        ({"global_batch_size": 16}, "only 16 ranks could have a sequence each"),
        (
            {"global_batch_size": 1056, "micro_batch_size": 2},
            "with this layout set micro_batch_size to one of 1, 3, 11, 33",
        ),
        ({"global_batch_size": 1152}, "interleaved pipeline stages take micro-batches in groups of"),
        (
            {"num_experts": 6, "expert_model_parallel_size": 4},
            "expert_model_parallel_size=4 does not divide num_experts=6",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_line_its_rule_and_a_way_out(changes: dict[str, Any], says: str) -> None:
    (finding,) = found(changes)
    assert finding.startswith("recipe.yaml:7: ") and says in finding


def test_processes_that_are_no_whole_copies_of_the_model_are_refused_with_the_nearest_numbers() -> None:
    (finding,) = found({}, world=1000)
    assert finding.startswith("1,000 processes cannot be cut") and "start 992 or 1,024" in finding


def test_all_that_is_wrong_is_found_at_once() -> None:
    assert len(found({"num_layers": 23, "ffn_hidden_size": 5633, "seq_length": 4090})) == 3
