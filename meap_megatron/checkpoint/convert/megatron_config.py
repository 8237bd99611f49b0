"""Megatron's arguments <-> `ModelSpec`, and the recipe that goes with a converted model.

The table `ARGUMENTS` names what a model of these families needs; `REFUSED` what such a checkpoint must not have, because
Hugging Face's classes cannot express it.
"""

import argparse
from typing import Any

from meap_megatron.checkpoint.convert.families import FAMILIES
from meap_megatron.checkpoint.convert.spec import ModelSpec
from meap_megatron.errors import UserError

REFUSED: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "swiglu": (True,),
    "add_bias_linear": (False,),
    "position_embedding_type": ("rope",),
    "rotary_percent": (1.0, 1),
    "rotary_interleaved": (False, None),
    "rotary_seq_len_interpolation_factor": (None, 1),
    "no_rope_freq": (None,),
    "apply_layernorm_1p": (False, None),
    "layernorm_zero_centered_gamma": (False, None),
    "qk_layernorm": (False, None),
    "multi_latent_attention": (False, None),
    "num_experts": (None, 0),
    "mtp_num_layers": (None, 0),
    "window_size": (None,),
    "softmax_type": ("vanilla", None),
    "heterogeneous_layers_config_path": (None,),
    "heterogeneous_layers_config_encoded_json": (None,),
    "hybrid_layer_pattern": (None,),
    "squared_relu": (False, None),
    "attention_output_gate": (False, None),
    "apply_residual_connection_post_layernorm": (False, None),
}
"""Megatron argument -> the values that a Llama-like model has; an argument that is absent has the first."""


def spec_from_args(args: argparse.Namespace, *, source: str, family: str | None = None) -> ModelSpec:
    """Return the model that the arguments in a checkpoint describe.

    Args:
        args: the `args` of the checkpoint.
        source: its path, for messages.
        family: key of `families.FAMILIES`; None: qwen2 if there is a bias on query, key and value, else llama.

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
    missing = [
        n for n in ("num_layers", "hidden_size", "num_attention_heads", "padded_vocab_size") if not hasattr(args, n)
    ]
    if missing:
        raise UserError(f"{source}: its arguments lack {', '.join(missing)}; it was not written by Megatron's trainer")
    heads = args.num_attention_heads
    grouped = getattr(args, "group_query_attention", False)
    bias = bool(getattr(args, "add_qkv_bias", False))
    chosen = family or ("qwen2" if bias else "llama")
    if bias != (chosen == "qwen2"):
        raise UserError(
            f"{source}: add_qkv_bias={bias}, but models of the family {chosen} have "
            f"{'none' if bias else 'a bias on query, key and value'}; use --family {'qwen2' if bias else 'llama'}"
        )
    return ModelSpec(
        family=chosen,
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        ffn_hidden_size=args.ffn_hidden_size,
        num_attention_heads=heads,
        num_query_groups=args.num_query_groups if grouped else heads,
        head_dim=args.kv_channels or args.hidden_size // heads,
        vocab_rows=args.padded_vocab_size,
        rotary_base=int(args.rotary_base),
        rope_factor=float(args.rope_scaling_factor) if getattr(args, "use_rope_scaling", False) else None,
        norm_epsilon=float(getattr(args, "norm_epsilon", None) or args.layernorm_epsilon),
        max_positions=args.max_position_embeddings,
        tied=not args.untie_embeddings_and_output_weights,
        qkv_bias=bias,
    )


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
        "position_embedding_type": "rope",
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
    if spec.rope_factor is not None:
        settings |= {"use_rope_scaling": True, "rope_scaling_factor": spec.rope_factor}
    return settings


def command_words(settings: dict[str, Any]) -> list[str]:
    """Return recipe settings as words of Megatron's command line."""
    words = []
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        words.append(flag if value is True else f"{flag}={value}")
    return words


def checkpoint_args(spec: ModelSpec, *, vocab_size: int) -> argparse.Namespace:
    """Return the `args` of a checkpoint without training: what Megatron compares, and what `--use-checkpoint-args` reads.

    Args:
        spec: the model.
        vocab_size: ids in use; the rest of the rows is padding.
    """
    grouped = spec.num_query_groups != spec.num_attention_heads
    return argparse.Namespace(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        ffn_hidden_size=spec.ffn_hidden_size,
        num_attention_heads=spec.num_attention_heads,
        group_query_attention=grouped,
        num_query_groups=spec.num_query_groups,
        kv_channels=spec.head_dim,
        max_position_embeddings=spec.max_positions,
        position_embedding_type="rope",
        add_position_embedding=True,
        use_rotary_position_embeddings=False,
        rotary_base=spec.rotary_base,
        rotary_percent=1.0,
        rotary_interleaved=False,
        use_rope_scaling=spec.rope_factor is not None,
        rope_scaling_factor=8.0 if spec.rope_factor is None else spec.rope_factor,
        add_bias_linear=False,
        add_qkv_bias=spec.qkv_bias,
        swiglu=True,
        squared_relu=False,
        untie_embeddings_and_output_weights=not spec.tied,
        apply_layernorm_1p=False,
        normalization="RMSNorm",
        norm_epsilon=spec.norm_epsilon,
        layernorm_epsilon=spec.norm_epsilon,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        vocab_size=vocab_size,
        padded_vocab_size=spec.vocab_rows,
        tensor_model_parallel_size=1,
        pipeline_model_parallel_size=1,
        ckpt_format="torch_dist",
        no_save_optim=True,
        no_save_rng=True,
        consumed_train_samples=0,
        skipped_train_samples=0,
        consumed_valid_samples=0,
    )
