"""Model configuration: Megatron's GPT model, with the layers of the device and, on request, the official initialisation."""

import math
from typing import Any

from megatron.core.utils import init_method_normal
from megatron.training.argument_utils import core_transformer_config_from_args, gpt_config_from_args

from meap_megatron.training.rope import check_built


def official_init_stds(*, hidden_size: int, num_layers: int) -> tuple[float, float]:
    """Return the standard deviations of the official initialisation (protocol 1.5; lit_gpt's model in scitix/MEAP).

    Returns:
        (all linear layers and the embedding, attention output and MLP output projections)
    """
    return math.sqrt(2.0 / (5.0 * hidden_size)), 1.0 / (math.sqrt(hidden_size) * num_layers)


def model_config(args: Any, *, device: str) -> Any:
    """Build Megatron's `GPTModelConfig` from its arguments.

    Args:
        args: Megatron's validated arguments with the `meap_*` fields.
        device: on "cpu", and with `transformer_impl=local`, the layers are those of `torch_layers`; else Transformer
            Engine's.
    """
    transformer = core_transformer_config_from_args(args)
    if args.meap_init == "official":
        std, output_std = official_init_stds(hidden_size=args.hidden_size, num_layers=args.num_layers)
        transformer.init_method = init_method_normal(std)
        transformer.embedding_init_method = init_method_normal(std)
        transformer.output_layer_init_method = init_method_normal(output_std)
    config = gpt_config_from_args(args, transformer)
    # Megatron 0.19 parses --rope-scaling-factor and then leaves it behind: every Llama 3.x would be built with factor 8.
    config.rope_scaling_factor = args.rope_scaling_factor
    config.pre_wrap_hooks.append(check_built(args))
    if device == "cpu" or args.transformer_impl == "local":
        from meap_megatron.training.torch_layers import block_spec

        config.transformer_layer_spec = block_spec
    return config
