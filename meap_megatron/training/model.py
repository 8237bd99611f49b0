"""Model configuration: Megatron's GPT or hybrid model, layers of the device, on request the official initialisation."""

import math
from typing import Any

from megatron.core.utils import init_method_normal
from megatron.training.argument_utils import (
    core_transformer_config_from_args,
    gpt_config_from_args,
    hybrid_config_from_args,
)

from meap_megatron.declared import picked
from meap_megatron.errors import UserError
from meap_megatron.layer_pattern import layers_of
from meap_megatron.training.rope import RotarySettings, check_built, complete_rotary


def official_init_stds(*, hidden_size: int, num_layers: float) -> tuple[float, float]:
    """Return the standard deviations of the official initialisation (protocol 1.5; lit_gpt's model in scitix/MEAP).

    Returns:
        (all linear layers and the embedding, attention output and MLP output projections)
    """
    return math.sqrt(2.0 / (5.0 * hidden_size)), 1.0 / (math.sqrt(hidden_size) * num_layers)


def model_config(args: Any, *, device: str) -> Any:
    """Build Megatron's `GPTModelConfig`, or with a layer pattern `HybridModelConfig`, from its arguments.

    Args:
        device: on "cpu", and with `transformer_impl=local`, the layers are those of `torch_layers`; else Transformer
            Engine's.
    """
    rotary = picked(RotarySettings, args)
    hybrid = args.hybrid_layer_pattern is not None
    transformer = core_transformer_config_from_args(args)
    if args.meap_init == "official":
        # A block of a GPT is two layers of a hybrid model.
        blocks = args.num_layers / 2 if hybrid else args.num_layers
        std, output_std = official_init_stds(hidden_size=args.hidden_size, num_layers=blocks)
        transformer.init_method = init_method_normal(std)
        transformer.embedding_init_method = init_method_normal(std)
        transformer.output_layer_init_method = init_method_normal(output_std)
    config = (hybrid_config_from_args if hybrid else gpt_config_from_args)(args, transformer)
    if hybrid:
        config.pre_wrap_hooks.append(complete_rotary(rotary))
    else:
        # Megatron 0.19 parses --rope-scaling-factor and then leaves it behind: every Llama 3.x would be built with factor 8.
        config.rope_scaling_factor = args.rope_scaling_factor
    config.pre_wrap_hooks.append(check_built(rotary, rank=args.rank))
    if device == "cpu" or args.transformer_impl == "local":
        with_torch_layers(config)
    elif hybrid and config.hybrid_stack_spec is None:
        from meap_megatron.training.torch_stack import engine_stack

        config.hybrid_stack_spec = engine_stack(transformer)
    return config


def with_torch_layers(config: Any) -> None:
    """Let a configuration build the layers that need no Transformer Engine.

    Raises:
        UserError: a layer of the pattern needs it.
    """
    if not hasattr(config, "hybrid_layer_pattern"):
        from meap_megatron.training.torch_layers import block_spec

        config.transformer_layer_spec = block_spec
        return
    from meap_megatron.launch.pattern_rules import refused_on_cpu
    from meap_megatron.training.torch_stack import torch_stack

    for reason in refused_on_cpu(config.hybrid_layer_pattern, "this run has none"):
        raise UserError(
            f"hybrid_layer_pattern={config.hybrid_layer_pattern}: {reason}"
        )  # it would leave the layer out
    if "G" in layers_of(config.hybrid_layer_pattern):
        config.transformer.deterministic_mode = True  # Megatron's gated delta rule in torch, not the one of Triton
    config.hybrid_stack_spec = torch_stack(config.transformer)
