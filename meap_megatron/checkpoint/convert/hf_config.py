"""config.json of Hugging Face <-> `ModelSpec`; its rotary fields are `rope`'s."""

import json
from pathlib import Path
from typing import Any

from meap_megatron.checkpoint.convert import rope
from meap_megatron.checkpoint.convert.families import FAMILIES, HARMLESS, OTHER_MODELS, Family
from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.checkpoint.folder import TRACKER
from meap_megatron.errors import UserError, refuse_pointer

SIZES = {
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_attention_heads": "num_attention_heads",
    "vocab_rows": "vocab_size",
    "max_positions": "max_position_embeddings",
}
"""Field of `ModelSpec` -> field of config.json."""
WRITTEN = SIZES | {
    "num_query_groups": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_epsilon": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
"""All that a config says of a model but its rotation."""

SKIPPING = ("no_rope_layers", "no_rope_layer_interval")
READ = {
    *WRITTEN.values(),
    *rope.FIELDS,
    *"sliding_window layer_types original_max_position_embeddings".split(),
}


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a Hugging Face model: {what_it_is(folder)}") from None
    except (OSError, ValueError) as error:
        refuse_pointer(path)
        raise UserError(f"{path} cannot be read as JSON: {error}", fix="download it again") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object", fix="download it again")
    return config


def what_it_is(folder: Path) -> str:
    """Return what a folder without config.json holds instead, and what to do about it."""
    if not folder.exists():
        return "it does not exist (nothing is downloaded)"
    if folder.is_file():
        return "it is a file; give the folder that holds config.json and the weights"
    names = sorted(path.name for path in folder.iterdir())
    if "adapter_config.json" in names:
        return (
            "it holds a LoRA adapter (adapter_config.json) and no config.json; merge the adapter into its base model "
            "(peft: AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(...))"
        )
    if packed := [name for name in names if name.endswith(".gguf")]:
        return f"it holds {packed[0]}, a GGUF file, which `meap convert import {folder / packed[0]} OUT` takes"
    if "params.json" in names:
        return (
            "it holds the original layout of Mistral or Meta (params.json); take the model's folder in Hugging Face's "
            "layout, with config.json and model*.safetensors"
        )
    if {TRACKER, "iter_0000000"} & set(names) or any(name.startswith("iter_") for name in names):
        return "it holds checkpoints of Megatron; `meap convert export` makes a Hugging Face folder of one"
    # One folder below, or where huggingface_hub keeps what it fetched: models--ORG--NAME/snapshots/COMMIT.
    inner = sorted(path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/config.json"))
    hint = f"; {inner[0]} has one" if inner else ""
    return f"it holds no config.json{hint}"


def spec_from_config(config: dict[str, Any], *, source: str, allowed: tuple[str, ...] = ()) -> ModelSpec:
    """Return the model that a config.json describes.

    Args:
        allowed: unknown fields that the user says do not matter.

    Raises:
        UserError: an unknown family, a missing field, or a field that this converter does not carry over; by name.
    """
    name = config.get("model_type")
    if name not in FAMILIES:
        reason = f" ({name}: {OTHER_MODELS[name]})" if name in OTHER_MODELS else ""
        raise UserError(
            f"{source}: model_type {name!r} is not one of {', '.join(FAMILIES)}; only these are converted{reason}"
        )
    family = FAMILIES[name]
    architectures = config.get("architectures") or [family.architecture]
    if architectures != [family.architecture]:
        raise UserError(
            f"{source}: architectures {architectures} is not {family.architecture}, a causal language model"
        )
    for field, (harmless, reason) in family.refused.items():
        if config.get(field, harmless[0]) not in harmless:
            raise UserError(f"{source}: {field}={config[field]!r}: {reason}")
    known = READ | HARMLESS | set(family.refused) | set(allowed) | (set(SKIPPING) if family.skips_rope else set())
    unknown = sorted(field for field, value in config.items() if field not in known and value not in (None, False))
    if unknown:
        raise UserError(
            f"{source}: {unknown[0]}={config[unknown[0]]!r} is a field that the converter does not know and that may change "
            f"the computation",
            fix=f"if it does not, say so with --allow-config-field {unknown[0]}",
        )
    absent = {field: value for field, value in family.defaults.items() if field not in config}
    config = {**absent, **config}
    _check_window(config, family=family, source=source, absent="sliding_window" in absent)
    sizes = {ours: _whole_number(config, theirs, source) for ours, theirs in SIZES.items()}
    heads = sizes["num_attention_heads"]
    groups = (
        heads if config.get("num_key_value_heads") is None else _whole_number(config, "num_key_value_heads", source)
    )
    if heads % groups:
        raise UserError(f"{source}: num_key_value_heads={groups} does not divide num_attention_heads={heads}")
    if config.get("head_dim") is None and sizes["hidden_size"] % heads:
        raise UserError(f"{source}: num_attention_heads={heads} does not divide hidden_size={sizes['hidden_size']}")
    head_dim = config.get("head_dim") or sizes["hidden_size"] // heads
    base, scaling = rope.read(config, source=source, base=family.rotary_base, allowed=allowed)
    return ModelSpec(
        family=name,
        **sizes,
        num_query_groups=groups,
        head_dim=head_dim,
        rotary_base=base,
        scaling=scaling,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        no_rope=_no_rope(config, layers=sizes["num_layers"], source=source) if family.skips_rope else (),
    )


def config_from_spec(spec: ModelSpec, *, base: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return config.json for a model.

    Args:
        base: the config of the model that this one was made from, or {}: what describes the model is replaced only where
            it differs, so that an unchanged model keeps every byte of it; the rest stays.
        dtype: "bfloat16", "float32" or "float16".
    """
    family = FAMILIES[spec.family]
    if base and base.get("model_type") == spec.family:
        before = spec_from_config(base, source="config.json", allowed=tuple(base))
        config = dict(base)
        changed = {ours: theirs for ours, theirs in WRITTEN.items() if getattr(spec, ours) != getattr(before, ours)}
        rotation = (spec.rotary_base, spec.scaling) != (before.rotary_base, before.scaling)
        key = "torch_dtype" if "torch_dtype" in base else "dtype"
        if base.get(key, dtype) != dtype:
            config[key] = dtype
    else:
        config = {
            "architectures": [family.architecture],
            "model_type": spec.family,
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "use_cache": True,
            "dtype": dtype,
            "torch_dtype": dtype,
        }
        config |= family.written
        if family.skips_rope:
            config["no_rope_layers"] = [int(layer not in spec.no_rope) for layer in range(spec.num_layers)]
        changed, rotation = WRITTEN, True
    config |= {theirs: getattr(spec, ours) for ours, theirs in changed.items()}
    if rotation:
        config |= rope.config_fields(spec.rotary_base, spec.scaling)
    return config


def _no_rope(config: dict[str, Any], *, layers: int, source: str) -> tuple[int, ...]:
    """Return the layers without rotation: those with a 0 in `no_rope_layers`, or every so many."""
    rotated = config.get("no_rope_layers")
    if rotated is None:
        interval = _whole_number(config, "no_rope_layer_interval", source)
        return tuple(range(interval - 1, layers, interval))
    if not isinstance(rotated, list) or len(rotated) < layers:
        raise UserError(f"{source}: no_rope_layers must be a list of {layers} numbers, one per layer, got {rotated!r}")
    return tuple(layer for layer, rotates in enumerate(rotated[:layers]) if not rotates)


def _check_window(config: dict[str, Any], *, family: Family, source: str, absent: bool) -> None:
    """Refuse a sliding window that is in use."""
    window, length = config.get("sliding_window"), config.get("max_position_embeddings", 0)
    # Qwen states a window and switches it off by use_sliding_window, which the family's table checks.
    if "use_sliding_window" not in family.refused and window is not None and window < length:
        stated = (
            f"sliding_window is absent, for which transformers takes {window}; this window"
            if absent
            else (f"sliding_window={window}")
        )
        raise UserError(
            f"{source}: {stated} is in use (max_position_embeddings={length}); windowed attention is not converted",
            fix='if the model was trained without a window, write "sliding_window": null',
        )
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise UserError(f"{source}: layer_types holds other layers than full_attention")


def _whole_number(config: dict[str, Any], field: str, source: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{source}: {field}={value!r} must be a whole number of at least 1")
    return value
