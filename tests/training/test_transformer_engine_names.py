"""The parameters of Megatron's layers have the names and shapes that the converter writes and reads.

Transformer Engine's layers are built where it is installed; their names are also here as data, read off the real layer
spec with megatron-core 0.19.2 and Transformer Engine 2.20.2.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

from meap_megatron.checkpoint.convert.families import ALIASES, layer_entries, top_entries
from meap_megatron.checkpoint.convert.spec import ModelSpec
from tests.support.build_on_meta import SIZES, VOCABULARY
from tests.support.runs import ROOT, python

LAYER = {
    "self_attention.linear_qkv.layer_norm_weight": (64,),
    "self_attention.linear_qkv.weight": (256, 64),  # (4 + 2 x 2) heads of 32 channels
    "self_attention.linear_proj.weight": (64, 128),
    "mlp.linear_fc1.layer_norm_weight": (64,),
    "mlp.linear_fc1.weight": (352, 64),  # gate and up
    "mlp.linear_fc2.weight": (64, 176),
}
BIAS = {"self_attention.linear_qkv.bias": (256,)}
NORMS = {"self_attention.q_layernorm.weight": (32,), "self_attention.k_layernorm.weight": (32,)}
"""Read off Megatron's source and its local layers, not off Transformer Engine."""
TOP = {"embedding.word_embeddings.weight": (512, 64), "decoder.final_layernorm.weight": (64,)}
HEAD = {"output_layer.weight": (512, 64)}

KINDS = [
    ("llama", False, False, False),
    ("llama", False, False, True),
    ("qwen2", True, False, False),
    ("qwen3", False, True, False),
]
"""Family, bias on query, key and value, norms of queries and keys, tied head."""


def expected(*, qkv_bias: bool, qk_norm: bool, tied: bool) -> dict[str, tuple[int, ...]]:
    layer = LAYER | (BIAS if qkv_bias else {}) | (NORMS if qk_norm else {})
    return TOP | ({} if tied else HEAD) | {f"decoder.layers.{n}.{k}": v for n in (0, 1) for k, v in layer.items()}


def of_converter(family: str, *, qkv_bias: bool, qk_norm: bool, tied: bool) -> dict[str, tuple[int, ...]]:
    spec = ModelSpec(
        family=family,
        num_layers=SIZES["num_layers"],
        hidden_size=SIZES["hidden_size"],
        ffn_hidden_size=SIZES["ffn_hidden_size"],
        num_attention_heads=SIZES["num_attention_heads"],
        num_query_groups=SIZES["num_query_groups"],
        head_dim=SIZES["kv_channels"],
        vocab_rows=VOCABULARY,
        rotary_base=10_000,
        scaling=None,
        norm_epsilon=1e-5,
        max_positions=128,
        tied=tied,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
    )
    named = {entry.megatron: entry.shape(spec) for entry in top_entries(spec)}
    for layer in range(spec.num_layers):
        named |= {f"decoder.layers.{layer}.{entry.megatron}": entry.shape(spec) for entry in layer_entries(spec)}
    return named


def of_megatron(engine: str, *, qkv_bias: bool, qk_norm: bool, tied: bool) -> dict[str, tuple[int, ...]]:
    words = [engine, "qkv_bias" if qkv_bias else "plain", "qk_norm" if qk_norm else "plain"]
    words.append("tied" if tied else "untied")
    if engine == "local":
        said = python("-m", "tests.support.build_on_meta", *words)
    else:  # in a process that has not made Megatron ready for a CPU
        command = [sys.executable, "-m", "tests.support.build_on_meta", *words]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=600, check=True).stdout
    return {name: tuple(shape) for name, shape in json.loads(said.splitlines()[-1]).items()}


@pytest.mark.parametrize(("family", "qkv_bias", "qk_norm", "tied"), KINDS)
def test_the_converter_writes_the_names_and_shapes_of_transformer_engine(
    family: str, qkv_bias: bool, qk_norm: bool, tied: bool
) -> None:
    assert of_converter(family, qkv_bias=qkv_bias, qk_norm=qk_norm, tied=tied) == expected(
        qkv_bias=qkv_bias, qk_norm=qk_norm, tied=tied
    )


@pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is None,
    reason="Transformer Engine is not installed; building it takes the CUDA compiler and about 20 minutes",
)
@pytest.mark.parametrize(("family", "qkv_bias", "qk_norm", "tied"), KINDS)
def test_transformer_engines_layers_have_the_names_and_shapes_that_the_converter_writes(
    family: str, qkv_bias: bool, qk_norm: bool, tied: bool
) -> None:
    built = of_megatron("transformer_engine", qkv_bias=qkv_bias, qk_norm=qk_norm, tied=tied)
    assert built == of_converter(family, qkv_bias=qkv_bias, qk_norm=qk_norm, tied=tied)


def test_megatrons_local_layers_have_the_converters_names_but_for_the_two_norms() -> None:
    # One process: bias, norms and untied head show every name.
    every = {"qkv_bias": True, "qk_norm": True, "tied": False}
    local = of_megatron("local", **every)
    back = {alias: name for name, alias in ALIASES.items()}

    def fused(name: str) -> str:
        prefix, layers, rest = name.partition("decoder.layers.")
        number, _, inner = rest.partition(".")
        return f"{prefix}{layers}{number}.{back.get(inner, inner)}" if layers else name

    assert {fused(name): shape for name, shape in local.items()} == of_converter("qwen2", **every)
    assert "decoder.layers.1.input_layernorm.weight" in local
