"""Megatron's arguments <-> `ModelSpec`, and the recipe that goes with a converted model.

`REFUSED` names what a checkpoint of these families must not have, because Hugging Face's classes cannot express it.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from meap_megatron.checkpoint.convert import rope
from meap_megatron.checkpoint.convert.families import FAMILIES
from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.errors import UserError
from meap_megatron.layer_pattern import BLOCK, blocks_of

REFUSED: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "swiglu": (True,),
    "add_bias_linear": (False,),
    "position_embedding_type": ("rope", "yarn"),
    "rotary_percent": (1.0, 1),
    "rotary_interleaved": (False, None),
    "apply_layernorm_1p": (False, None),
    "layernorm_zero_centered_gamma": (False, None),
    "qk_l2_norm": (False, None),
    "multi_latent_attention": (False, None),
    "num_experts": (None, 0),
    "mtp_num_layers": (None, 0),
    "window_size": (None,),
    "softmax_type": ("vanilla", None),
    "heterogeneous_layers_config_path": (None,),
    "heterogeneous_layers_config_encoded_json": (None,),
    "squared_relu": (False, None),
    "attention_output_gate": (False, None),
    "apply_residual_connection_post_layernorm": (False, None),
}
"""Megatron argument -> the values that a Llama-like model has; an argument that is absent has the first."""


def spec_from_args(args: argparse.Namespace, *, source: str, family: str | None = None) -> ModelSpec:
    """Return the model that the arguments in a checkpoint describe.

    Args:
        family: key of `families.FAMILIES`; None: the first that has the parts of the model.

    Raises:
        UserError: the checkpoint holds a model that no known family can express; by name of the argument.
    """
    for name, values in REFUSED.items():
        value = getattr(args, name, values[0])
        if value not in values:
            raise UserError(
                f"{source}: {name}={value} cannot be expressed in Hugging Face's {', '.join(sorted(FAMILIES))} models; "
                f"they have {name}={values[0]}"
            )
    pattern = getattr(args, "hybrid_layer_pattern", None)
    if pattern is not None and blocks_of(pattern) is None:
        raise UserError(
            f"{source}: hybrid_layer_pattern={pattern} cannot be expressed in Hugging Face's {', '.join(sorted(FAMILIES))} "
            f"models; their layers are {BLOCK}, attention and feed-forward part in turn"
        )
    if pattern is not None and getattr(args, "no_rope_freq", None):
        raise UserError(f"{source}: layers without rotary positions (no_rope_freq) are converted from a GPT only")
    missing = [
        n for n in ("num_layers", "hidden_size", "num_attention_heads", "padded_vocab_size") if not hasattr(args, n)
    ]
    if missing:
        raise UserError(f"{source}: its arguments lack {', '.join(missing)}; it was not written by Megatron's trainer")
    layers = args.num_layers if pattern is None else blocks_of(pattern) or 0
    heads = args.num_attention_heads
    grouped = getattr(args, "group_query_attention", False)
    no_rope = skipped(getattr(args, "no_rope_freq", None), layers=layers)
    parts = {
        "qkv_bias": bool(getattr(args, "add_qkv_bias", False)),
        "qk_norm": bool(getattr(args, "qk_layernorm", False)),
        "no_rope": bool(no_rope),
    }
    fitting = [name for name, entry in FAMILIES.items() if entry.builds(**parts)]
    if not fitting or (family is not None and family not in fitting):
        flags = ("add_qkv_bias", "qk_layernorm", "no_rope_freq")
        own = ", ".join(flag for flag, has in zip(flags, parts.values(), strict=True) if has)
        raise UserError(
            f"{source} has {own or 'none of ' + ', '.join(flags)}, and models of "
            + (f"the family {family} differ in that" if fitting else "no family have all"),
            fix=f"use --family {fitting[0]}" if fitting else None,
        )
    return ModelSpec(
        family=family or fitting[0],
        num_layers=layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=heads,
        num_query_groups=args.num_query_groups if grouped else heads,
        head_dim=args.kv_channels or args.hidden_size // heads,
        vocab_rows=args.padded_vocab_size,
        rotary_base=int(args.rotary_base),
        scaling=rope.read_arguments(args),
        norm_epsilon=float(getattr(args, "norm_epsilon", None) or args.layernorm_epsilon),
        max_positions=args.max_position_embeddings,
        tied=not args.untie_embeddings_and_output_weights,
        qkv_bias=parts["qkv_bias"],
        qk_norm=parts["qk_norm"],
        no_rope=no_rope,
    )


def skipped(value: int | str | Sequence[int] | None, *, layers: int) -> tuple[int, ...]:
    """Return the layers, from 0, that Megatron's `no_rope_freq` does not rotate: the last of every N, or those with a 1."""
    if not value:
        return ()
    if isinstance(value, int):
        return tuple(range(value - 1, layers, value))
    return tuple(layer for layer, skips in enumerate(value) if skips)


def no_rope_freq(spec: ModelSpec) -> str:
    """Return the value of `--no-rope-freq`: a number where every so many layers is skipped, else a list."""
    first = spec.no_rope[0] + 1
    if spec.num_layers % first == 0 and spec.no_rope == tuple(range(first - 1, spec.num_layers, first)):
        return str(first)
    return "[" + ",".join(str(int(layer in spec.no_rope)) for layer in range(spec.num_layers)) + "]"


def recipe_settings(spec: ModelSpec) -> dict[str, Any]:
    """Return the recipe keys, which are Megatron's flags in snake_case, that build this model."""
    settings: dict[str, Any] = {
        "num_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "ffn_hidden_size": spec.ffn_hidden_size,
        "num_attention_heads": spec.num_attention_heads,
        "kv_channels": spec.head_dim,
        "swiglu": True,
        "disable_bias_linear": True,
        "normalization": "RMSNorm",
        "norm_epsilon": spec.norm_epsilon,
        **rope.settings(spec.scaling),
        "rotary_base": spec.rotary_base,
        "max_position_embeddings": spec.max_positions,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "padded_vocab_size": spec.vocab_rows,
    }
    if spec.num_query_groups != spec.num_attention_heads:
        settings |= {"group_query_attention": True, "num_query_groups": spec.num_query_groups}
    if not spec.tied:
        settings["untie_embeddings_and_output_weights"] = True
    if spec.qkv_bias:
        settings["add_qkv_bias"] = True
    if spec.qk_norm:
        settings["qk_layernorm"] = True
    if spec.no_rope:
        settings["no_rope_freq"] = no_rope_freq(spec)
    return settings


def argv_of(settings: dict[str, Any]) -> list[str]:
    """Return recipe settings as arguments of Megatron's command line."""
    argv = []
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        argv.append(flag if value is True else f"{flag}={value}")
    return argv


def checkpoint_args(spec: ModelSpec, *, vocab_size: int) -> argparse.Namespace:
    """Return the `args` of a checkpoint without training: what Megatron compares, and what `--use-checkpoint-args` reads.

    Args:
        vocab_size: ids in use; the rest of the rows is padding.
    """
    absent = {
        "group_query_attention": False,
        "num_query_groups": spec.num_query_groups,
        "add_qkv_bias": False,
        "qk_layernorm": False,
        "untie_embeddings_and_output_weights": False,
    }
    given = recipe_settings(spec)
    for flag in ("disable_bias_linear", "no_yarn_correction_range_round_to_int"):  # of arguments with other names
        given.pop(flag, None)
    given |= rope.arguments(spec.scaling) | {
        "add_position_embedding": True,
        "use_rotary_position_embeddings": False,
        "rotary_percent": 1.0,
        "rotary_interleaved": False,
        "no_rope_freq": [int(layer in spec.no_rope) for layer in range(spec.num_layers)] if spec.no_rope else None,
        "add_bias_linear": False,
        "squared_relu": False,
        "apply_layernorm_1p": False,
        "layernorm_epsilon": spec.norm_epsilon,
        "vocab_size": vocab_size,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "ckpt_format": "torch_dist",
        "no_save_optim": True,
        "no_save_rng": True,
        "consumed_train_samples": 0,
        "skipped_train_samples": 0,
        "consumed_valid_samples": 0,
    }
    return argparse.Namespace(**absent | given)
