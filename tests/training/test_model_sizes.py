"""The model ladder, judged by Megatron itself: published parameter counts, valid layouts from 1 to 512 GPUs, precisions."""

import json
from typing import Any

import pytest

from meap_megatron.launch.recipe import load
from meap_megatron.training.model import official_init_stds
from tests.support.runs import RECIPES, python

# The judge takes half a minute: one worker asks it for all tests of this file.

COUNTS = {
    "pretrain/llama_0.1b_ntp": 122_407_680,
    "pretrain/llama_0.3b_ntp": 324_060_160,
    "pretrain/llama_0.5b_ntp": 480_953_344,
    "pretrain/llama_1.1b_ntp": 1_175_816_192,
    "sft/llama3.2_3b_ntp": 3_212_749_824,
    "sft/llama3_8b_ntp": 8_030_261_248,
    "sft/mistral_7b_v0.2_ntp": 7_241_732_096,
    "sft/qwen2.5_14b_ntp": 14_770_033_664,
    "sft/qwen3_0.6b_ntp": 596_049_920,
    "sft/qwen3_1.7b_ntp": 1_720_574_976,
    "sft/qwen3_4b_ntp": 4_022_468_096,
    "sft/qwen3_8b_ntp": 8_190_735_360,
    "sft/qwen3_14b_ntp": 14_768_307_200,
}
"""Protocol 1.4, and what the published fine-tuning models have (tests/checkpoint/convert/published.py)."""


@pytest.fixture(scope="module")
def verdicts() -> Any:
    return json.loads(python("-m", "tests.support.judge_recipes").splitlines()[-1])


def test_the_models_that_megatron_builds_have_the_published_parameter_counts(verdicts: Any) -> None:
    assert verdicts["counts"] == COUNTS


def test_a_formula_of_ten_numbers_gives_the_same_counts() -> None:
    def parameters(name: str, rows: int) -> int:
        recipe = load(RECIPES / f"{name}.yaml")
        hidden, ffn, layers = (recipe.get(key) for key in ("hidden_size", "ffn_hidden_size", "num_layers"))
        heads, groups, channels = (
            recipe.get(key) for key in ("num_attention_heads", "num_query_groups", "kv_channels")
        )
        qkv = (heads + 2 * groups) * channels
        layer = hidden * (qkv + heads * channels + 3 * ffn + 2) + (qkv if recipe.get("add_qkv_bias") else 0)
        layer += 2 * channels if recipe.get("qk_layernorm") else 0
        tables = 2 if recipe.get("untie_embeddings_and_output_weights") else 1
        return layers * layer + hidden * (1 + tables * rows)

    rows = {"pretrain": 32064, "sft/llama": 128256, "sft/mistral": 32000, "sft/qwen2": 152064}
    rows["sft/qwen3"] = 151_936
    for name, count in COUNTS.items():
        assert parameters(name, next(n for start, n in rows.items() if name.startswith(start))) == count


FEWEST = {
    "sft/llama3_8b_ntp": 2,
    "sft/mistral_7b_v0.2_ntp": 2,
    "sft/qwen2.5_14b_ntp": 4,
    "sft/qwen3_4b_ntp": 2,
    "sft/qwen3_8b_ntp": 4,
    "sft/qwen3_14b_ntp": 4,
}
"""GPUs of 80 GB that hold a model and its optimizer, where one does not."""


def test_every_size_has_a_layout_from_the_fewest_gpus_to_512_that_megatron_accepts(verdicts: Any) -> None:
    for name, layouts in verdicts["layouts"].items():
        every = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        batch = load(RECIPES / f"{name}.yaml").get("global_batch_size")
        assert list(layouts) == [str(gpus) for gpus in every if gpus >= FEWEST.get(name, 1)], name
        for gpus, layout in layouts.items():
            tensor, pipeline, context, data = layout["sizes"]
            assert tensor * pipeline * context * data == int(gpus), (name, gpus)
            assert layout["micro_batches"] >= 1 and layout["micro_batches"] % 1 == 0, (name, gpus)
            recipe = load(RECIPES / f"{name}.yaml", [f"layout={gpus}"])
            assert recipe.get("num_query_groups") % tensor == 0, (name, gpus)
            # More tokens in parallel never change the model: the batch is the recipe's on every layout.
            assert recipe.get("global_batch_size") == batch


def test_both_arms_of_a_pair_have_the_same_layouts() -> None:
    for name in COUNTS:
        ntp, meap = load(RECIPES / f"{name}.yaml"), load(RECIPES / f"{name.replace('_ntp', '_meap')}.yaml")
        values = [
            {g: {k: s.value for k, s in table.items()} for g, table in arm.layouts.items()} for arm in (ntp, meap)
        ]
        assert values[0] == values[1] and values[0]


@pytest.mark.parametrize(
    ("precision", "fp8", "dtype"),
    [
        ("fp32", [None, "delayed"], "torch.float32"),
        ("bf16", [None, "delayed"], "torch.bfloat16"),
        ("fp8-delayed", ["hybrid", "delayed"], "torch.bfloat16"),
        ("fp8-tensorwise", ["hybrid", "tensorwise"], "torch.bfloat16"),
        ("fp8-blockwise", ["e4m3", "blockwise"], "torch.bfloat16"),
        ("mxfp8", ["e4m3", "mxfp8"], "torch.bfloat16"),
    ],
)
def test_a_precision_reaches_megatrons_configuration(
    verdicts: Any, precision: str, fp8: list[str | None], dtype: str
) -> None:
    verdict = verdicts["precisions"]["sft/qwen2.5_14b_ntp"][precision]
    assert verdict["fp8"] == [*fp8, dtype]


def test_shapes_that_a_format_cannot_take_are_refused_before_launch(verdicts: Any) -> None:
    of = verdicts["precisions"]["pretrain/llama_0.3b_ntp"]
    assert all(isinstance(of[name], dict) for name in ("fp32", "bf16", "fp8-delayed", "fp8-tensorwise"))
    assert "multiple of 32 on each rank; these are not: ffn_hidden_size 2736" in of["mxfp8"]
    assert "multiple of 128 on each rank; these are not: ffn_hidden_size 2736" in of["fp8-blockwise"]


def test_unsafe_flags_are_refused_on_the_bare_command_line_too(verdicts: Any) -> None:
    pairs = verdicts["pairs"]
    assert "fp8_recipe=mxfp8 with fp8_format=hybrid diverges" in pairs["mxfp8 hybrid"]
    assert "distributed optimizer" in pairs["gather"]
    assert "needs a GPU and Transformer Engine" in pairs["local"]
    assert pairs["mxfp8 gather"]["fp8"] == ["e4m3", "mxfp8", "torch.bfloat16"]


def test_the_official_initialisation_has_the_published_deviations() -> None:
    std, output_std = official_init_stds(hidden_size=2048, num_layers=24)
    assert std == pytest.approx((2 / (5 * 2048)) ** 0.5)
    assert output_std == pytest.approx(1 / (2048**0.5 * 24))
