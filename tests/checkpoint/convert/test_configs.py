"""What a config says is carried over or refused by name; the layouts of transformers 4 and 5 mean the same."""

import argparse
import dataclasses
import json
import re
from typing import Any

import pytest

from meap_megatron.checkpoint.convert.families import FAMILIES
from meap_megatron.checkpoint.convert.hf_config import config_from_spec, spec_from_config
from meap_megatron.checkpoint.convert.megatron_config import checkpoint_args, recipe_settings, spec_from_args
from meap_megatron.checkpoint.convert.rope import config_fields
from meap_megatron.checkpoint.convert.spec import ModelSpec, Scaling, check_layout, padded_rows
from meap_megatron.errors import UserError
from meap_megatron.launch.flags import read_flags
from tests.support.runs import ROOT

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def spec(**changes: Any) -> ModelSpec:
    return spec_from_config({**LLAMA, **changes}, source="config.json")


def test_both_layouts_of_the_rotary_fields_give_the_same_model() -> None:
    old = spec(rope_theta=1e6, rope_scaling=SCALING)
    new = dict(LLAMA)
    del new["rope_theta"]
    assert spec_from_config({**new, "rope_parameters": {**SCALING, "rope_theta": 1e6}}, source="") == old
    assert (old.rotary_base, old.scaling) == (1_000_000, Scaling(kind="llama3", factor=8.0))
    # Meta's own name of the field, of 2024.
    assert spec(rope_theta=1e6, rope_scaling={**SCALING, "rope_type": None, "type": "llama3"}) == old


def test_what_is_written_is_read_back_in_both_layouts() -> None:
    model = spec(rope_scaling=SCALING)
    fields = config_fields(model.rotary_base, model.scaling)
    for names in (("rope_theta", "rope_scaling"), ("rope_parameters",)):
        bare = {name: value for name, value in LLAMA.items() if name != "rope_theta"}
        assert spec_from_config({**bare, **{name: fields[name] for name in names}}, source="") == model
    assert spec_from_config(config_from_spec(model, base={}, dtype="float32"), source="") == model


def test_two_bases_in_one_config_are_refused() -> None:
    with pytest.raises(UserError, match="two bases"):
        spec(rope_parameters={"rope_theta": 10000.0, "rope_type": "default"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not LlamaForCausalLM"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"sliding_window": 64}, "sliding_window=64 is in use"),
        ({"num_local_experts": 8}, "num_local_experts=8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "olmo2"}, "olmo2: norms behind attention and MLP"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_type 'dynamic' is not converted: its base"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "rope_type 'longrope' is not converted"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.5}}, "factor=2.5 of the linear rope scaling"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "yarn rope scaling has no factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"mrope_section": [8, 4]}}, "mrope_section=.8, 4., which the converter does not know"),
        ({"no_rope_layers": [1, 1, 1, 0]}, "no_rope_layers=.1, 1, 1, 0. is a field that the converter does not know"),
        ({"rope_scaling": {**SCALING, "high_freq_factor": 8.0}}, "hard-codes 4 for llama3"),
        ({"rope_scaling": {**SCALING, "original_max_position_embeddings": 4096}}, "hard-codes 8192"),
        ({"rope_theta": 10000.5}, "not a whole number"),
        ({"num_key_value_heads": 3}, "does not divide"),
        ({"logit_scale": 0.5}, "--allow-config-field logit_scale"),
        ({"vocab_size": "many"}, "vocab_size='many'"),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(**changes)


def test_a_window_as_long_as_the_model_and_a_switched_off_one_are_accepted() -> None:
    assert spec(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=128).family == "mistral"
    qwen = {"model_type": "qwen2", "architectures": None, "sliding_window": 64, "use_sliding_window": False}
    assert spec(**qwen, layer_types=["full_attention"] * 4).qkv_bias
    with pytest.raises(UserError, match="use_sliding_window=True"):
        spec(**{**qwen, "use_sliding_window": True})


def test_a_field_that_is_absent_has_the_value_that_transformers_takes() -> None:
    import transformers

    for name, family in FAMILIES.items():
        config = transformers.AutoConfig.for_model(name)
        assert {field: getattr(type(config), field) for field in family.defaults} == family.defaults
        for field in ("num_key_value_heads", "sliding_window"):
            absent = getattr(type(config), field, None)
            # Of Qwen's window use_sliding_window decides.
            switched = field == "sliding_window" and "use_sliding_window" in family.refused
            assert family.defaults.get(field) == (None if switched else absent)
        for field in ("head_dim", "tie_word_embeddings"):
            assert family.defaults.get(field, False) == (getattr(type(config), field, None) or False)
        assert family.rotary_base == type(config).default_theta
    mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    assert spec(**mistral).family == "mistral"  # 128 positions: the window of 4,096 is never in use
    with pytest.raises(UserError, match="sliding_window is absent, for which transformers takes 4096"):
        spec(**mistral, max_position_embeddings=32768)
    assert spec(**mistral, max_position_embeddings=32768, sliding_window=None).max_positions == 32768
    shared = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"num_attention_heads": 16}
    assert spec_from_config({**shared, **mistral}, source="").num_query_groups == 8
    assert spec_from_config({**shared, **mistral, "num_key_value_heads": None}, source="").num_query_groups == 16
    assert spec_from_config(shared, source="").num_query_groups == 16


@pytest.mark.parametrize(
    "published",
    [
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}},
        {"_model_name_or_path": "x", "unk_token_id": 0, "unsloth_version": "2025.1", "sep_token_id": 4},
        {"max_sequence_length": 2048, "temperature": 0.9, "id2label": {"0": "A"}, "gradient_checkpointing": True},
    ],
)
def test_fields_of_published_configs_that_change_nothing_are_known(published: dict[str, Any]) -> None:
    assert spec(**published) == spec()


def test_a_field_that_the_user_vouches_for_is_accepted() -> None:
    assert spec_from_config({**LLAMA, "my_note": "x"}, source="", allowed=("my_note",)) == spec()


def test_an_unchanged_model_keeps_its_config_and_a_changed_one_only_what_changed() -> None:
    assert config_from_spec(spec(), base=LLAMA, dtype="bfloat16") == LLAMA
    longer = spec(max_position_embeddings=65536, rope_theta=640000.0)
    config = config_from_spec(longer, base=LLAMA, dtype="bfloat16")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 640000.0
    assert config["max_position_embeddings"] == 65536 and config["rms_norm_eps"] == 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"head_dim": 32},
        {"rope_scaling": SCALING},
        {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
        {"rope_scaling": YARN},
        {"rope_scaling": {**YARN, "attention_factor": 1.3, "truncate": False, "beta_slow": 2}},
        {"rope_scaling": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5}},
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_the_same_in_configs_arguments_and_records(changes: dict[str, Any], family: str) -> None:
    model = spec(**changes, model_type=family, architectures=None)
    args = checkpoint_args(model, vocab_size=500)
    assert spec_from_args(args, source="", family=family) == model
    assert ModelSpec.from_record(json.loads(json.dumps(dataclasses.asdict(model)))) == model
    config = config_from_spec(model, base={}, dtype="float32")
    assert spec_from_config(config, source="") == model
    assert set(recipe_settings(model)) <= set(read_flags())


def test_the_arguments_of_a_hybrid_model_of_blocks_describe_the_model_of_its_gpt() -> None:
    model = spec()
    args = checkpoint_args(model, vocab_size=500)
    args.hybrid_layer_pattern, args.num_layers = "|".join(["*-"] * model.num_layers), 2 * model.num_layers
    assert spec_from_args(args, source="", family="llama") == model
    args.hybrid_layer_pattern = "M-*-"
    with pytest.raises(UserError, match=r"hybrid_layer_pattern=M-\*- cannot be expressed in Hugging Face's llama"):
        spec_from_args(args, source="")


def test_an_import_of_before_other_scalings_is_read() -> None:
    record = dataclasses.asdict(spec(rope_scaling=SCALING))
    del record["scaling"], record["qk_norm"], record["no_rope"]
    assert ModelSpec.from_record({**record, "rope_factor": 8.0}) == spec(rope_scaling=SCALING)
    assert ModelSpec.from_record({**record, "rope_factor": None}) == spec()


@pytest.mark.parametrize(
    ("config", "skipped", "flag"),
    [
        ({}, (3,), "4"),
        ({"num_hidden_layers": 6}, (3,), "[0,0,0,1,0,0]"),
        ({"no_rope_layer_interval": 2}, (1, 3), "2"),
        ({"no_rope_layers": [0, 1, 1, 1, 0]}, (0,), "[1,0,0,0]"),  # transformers allows a longer list
        ({"no_rope_layers": [1, 1, 1, 1]}, (), None),
    ],
)
def test_layers_without_rotation_are_those_of_transformers(
    config: dict[str, Any], skipped: tuple[int, ...], flag: str | None
) -> None:
    import transformers
    from megatron.training.arguments import no_rope_freq_type

    model = spec(model_type="smollm3", architectures=None, **config)
    theirs = transformers.SmolLM3Config(**{**LLAMA, "model_type": "smollm3", **config})
    assert model.no_rope == skipped
    assert [int(n not in skipped) for n in range(model.num_layers)] == theirs.no_rope_layers[: model.num_layers]
    assert recipe_settings(model).get("no_rope_freq") == flag
    parsed = None if flag is None else no_rope_freq_type(flag)
    args = argparse.Namespace(**{**vars(checkpoint_args(model, vocab_size=500)), "no_rope_freq": parsed})
    assert spec_from_args(args, source="", family="smollm3") == model
    assert model.with_layers(3).no_rope == tuple(n for n in skipped if n < 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("swiglu", False),
        ("normalization", "LayerNorm"),
        ("rotary_percent", 0.5),
        ("num_experts", 8),
        ("window_size", (128, 0)),
    ],
)
def test_checkpoints_of_other_architectures_are_refused_by_argument(name: str, value: Any) -> None:
    args = argparse.Namespace(**{**vars(checkpoint_args(spec(), vocab_size=500)), name: value})
    with pytest.raises(
        UserError,
        match=rf"{name}=.* cannot be expressed in Hugging Face's llama, mistral, qwen2, qwen3, smollm3 models",
    ):
        spec_from_args(args, source="run")


@pytest.mark.parametrize(
    ("parts", "family", "message"),
    [
        ({"add_qkv_bias": True}, "llama", "has add_qkv_bias, .* family llama differ in that; use --family qwen2"),
        ({}, "qwen3", "has none of add_qkv_bias, .* family qwen3 differ in that; use --family llama"),
        ({"no_rope_freq": 2}, "qwen3", "has no_rope_freq, .* use --family smollm3"),
        ({"qk_layernorm": True, "no_rope_freq": 2}, None, "has qk_layernorm, no_rope_freq, and models of no family"),
    ],
)
def test_a_family_takes_only_weights_that_its_models_have(parts: Any, family: str | None, message: str) -> None:
    args = argparse.Namespace(**{**vars(checkpoint_args(spec(), vocab_size=500)), **parts})
    with pytest.raises(UserError, match=message):
        spec_from_args(args, source="run", family=family)


def test_the_family_follows_from_the_parts_of_the_model() -> None:
    for parts, name in (({}, "llama"), ({"add_qkv_bias": True}, "qwen2"), ({"qk_layernorm": True}, "qwen3")):
        args = argparse.Namespace(**{**vars(checkpoint_args(spec(), vocab_size=500)), **parts})
        assert spec_from_args(args, source="run").family == name


def test_the_table_of_families_in_the_documentation_is_that_of_the_code() -> None:
    page = (ROOT / "docs/convert.md").read_text(encoding="utf-8")
    listed = re.search(r"^\| family .*\n.*\n((?:\|.*\n)+)", page, flags=re.MULTILINE)
    assert listed is not None
    assert listed[1].splitlines() == [f"| {name} | {f.models} | {f.carried} |" for name, f in FAMILIES.items()]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{', '.join(f.architecture.removesuffix('ForCausalLM') for f in FAMILIES.values())} and GGUF" in readme


def test_rows_are_a_multiple_of_both_numbers() -> None:
    assert padded_rows(128_257, multiple=64, tensor_parallel=8) == 128_320
    assert padded_rows(512, multiple=64, tensor_parallel=3) == 576
    assert padded_rows(151_936, multiple=64, tensor_parallel=8) == 151_936


def test_layouts_that_cannot_be_built_are_refused() -> None:
    check_layout(spec(), tensor_parallel=4, pipeline_parallel=2)  # ranks may share a key-value head
    with pytest.raises(UserError, match="use one of 1, 2, 4"):
        check_layout(spec(), tensor_parallel=3, pipeline_parallel=1)
    with pytest.raises(UserError, match="4 layers"):
        check_layout(spec(), tensor_parallel=1, pipeline_parallel=3)


def test_parameters_are_counted() -> None:
    # Table 12's 1.1B as the official code builds it.
    model = ModelSpec(
        family="llama",
        num_layers=24,
        hidden_size=2048,
        ffn_hidden_size=5632,
        num_attention_heads=32,
        num_query_groups=2,
        head_dim=64,
        vocab_rows=32064,
        rotary_base=10000,
        scaling=None,
        norm_epsilon=1e-5,
        max_positions=4096,
        tied=False,
        qkv_bias=False,
    )
    assert model.num_parameters == 1_175_816_192
