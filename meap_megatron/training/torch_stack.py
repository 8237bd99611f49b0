"""The layers of a `HybridModel`: those of `torch_layers` without Transformer Engine, and Megatron's own with it.

Attention and feed-forward part of a GPT layer become layers of their own, under the same parameter names.
"""

from dataclasses import replace
from typing import Any

from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.models.hybrid.hybrid_layer_specs import hybrid_stack_spec
from megatron.core.ssm.gated_delta_net import GatedDeltaNet
from megatron.core.ssm.gated_delta_net.common import GatedDeltaNetSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mamba_mixer import MambaMixerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from meap_megatron.training.torch_layers import TorchLoneNorm, TorchRMSNorm, layer_spec
from meap_megatron.training.torch_mamba import TorchMambaMixer


class TorchStack(HybridStack):
    """Megatron's stack of layers with a final norm that needs no Transformer Engine, which is all that Megatron has."""

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, post_layer_norm=False, **kwargs)
        self.post_layer_norm = True
        if self.post_process:
            self.final_norm = TorchLoneNorm(config, config.hidden_size, eps=config.layernorm_epsilon)


def torch_stack(config: TransformerConfig) -> ModuleSpec:
    """Return the layers without Transformer Engine: attention, feed-forward part, Mamba-2 and gated delta net.

    A gated delta net computes what Megatron's deterministic mode does, in torch; `model_config` switches that on.

    Raises:
        UserError: see `torch_layers.layer_spec`.
    """
    both: TransformerLayerSubmodules = layer_spec(config).submodules
    names = both.sharded_state_dict_keys_map
    return ModuleSpec(
        module=TorchStack,
        submodules=HybridStackSubmodules(
            attention_layer=ModuleSpec(
                module=TransformerLayer,
                submodules=TransformerLayerSubmodules(
                    input_layernorm=both.input_layernorm,
                    self_attention=both.self_attention,
                    self_attn_bda=both.self_attn_bda,
                    sharded_state_dict_keys_map=names,
                ),
            ),
            mlp_layer=ModuleSpec(
                module=MLPLayer,
                submodules=TransformerLayerSubmodules(
                    pre_mlp_layernorm=both.pre_mlp_layernorm,
                    mlp=both.mlp,
                    mlp_bda=both.mlp_bda,
                    sharded_state_dict_keys_map=names,
                ),
            ),
            mamba_layer=ModuleSpec(
                module=MambaLayer,
                submodules=MambaLayerSubmodules(
                    norm=TorchRMSNorm,
                    mixer=ModuleSpec(
                        module=TorchMambaMixer,
                        submodules=MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear),
                    ),
                    mamba_bda=both.self_attn_bda,
                    sharded_state_dict_keys_map={"norm.": "mixer.in_proj.layer_norm_"},
                ),
            ),
            gdn_layer=ModuleSpec(
                module=TransformerLayer,
                submodules=TransformerLayerSubmodules(
                    input_layernorm=TorchRMSNorm,
                    self_attention=ModuleSpec(
                        module=GatedDeltaNet,
                        submodules=GatedDeltaNetSubmodules(
                            in_proj=ColumnParallelLinear, out_norm=TorchLoneNorm, out_proj=RowParallelLinear
                        ),
                    ),
                    self_attn_bda=both.self_attn_bda,
                    sharded_state_dict_keys_map={"input_layernorm.": "self_attention.in_proj.layer_norm_"},
                ),
            ),
        ),
    )


def engine_stack(config: TransformerConfig) -> ModuleSpec:
    """Return Megatron's layers with Transformer Engine; its attention leaves out the norms of query and key."""
    if not config.qk_layernorm:
        return hybrid_stack_spec
    from megatron.core.extensions.transformer_engine import TENorm

    layers = hybrid_stack_spec.submodules
    attention = layers.attention_layer.submodules.self_attention
    normed = replace(attention, submodules=replace(attention.submodules, q_layernorm=TENorm, k_layernorm=TENorm))
    parts = replace(layers.attention_layer.submodules, self_attention=normed)
    layer = replace(layers.attention_layer, submodules=parts)
    return replace(hybrid_stack_spec, submodules=replace(layers, attention_layer=layer))
