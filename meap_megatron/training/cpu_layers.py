"""Layers for a CPU: attention through `scaled_dot_product_attention`, and an RMSNorm that sequence parallel may use.

They fill the same slots of Megatron's layer spec, under the same parameter names, as Megatron's local layers, so that a
checkpoint moves between them freely. Two things Megatron's local layers cannot do are added: packed segments
(`packed_seq_params`, the block-causal counterpart of Transformer Engine's THD format) and norms under sequence parallel.

Shapes: s sequence, b batch, h heads, g key-value heads (groups), d head size, t = tokens of all segments.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

from meap_megatron.errors import UserError
from meap_megatron.training import cpu_kernels

UNSUPPORTED = (
    "num_moe_experts",
    "multi_latent_attention",
    "window_size",
    "layernorm_zero_centered_gamma",
    "mtp_num_layers",
    "experimental_attention_variant",
)
"""Fields of Megatron's configuration that would change the model and that these layers do not read."""


class CpuAttention(MegatronModule):
    """Causal softmax attention; with `packed_seq_params`, causal inside each segment and blind to all others."""

    def __init__(self, config: TransformerConfig, *, softmax_scale: float | None = None, **unused: Any) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale
        del unused  # layer number, mask type, process groups: without meaning for one causal kernel

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            query: [s, b, h, d], or [t, h, d] with packed segments.
            key: [s, b, g, d] or [t, g, d]; h is a multiple of g.
            value: as `key`.
            attention_mask: bool [b, 1, s, s], true where attention is forbidden, or None for plain causal.
            attn_mask_type: unused.
            attention_bias: must be None.
            packed_seq_params: `cu_seqlens_q` int32[segments + 1] bounds the segments.

        Returns:
            [s, b, h * d], or [t, h * d] with packed segments.
        """
        if attention_bias is not None:
            raise UserError("attention bias is not supported on a CPU")
        dropout = self.config.attention_dropout if self.training else 0.0
        grouped = query.size(-2) != key.size(-2)
        if packed_seq_params is not None:
            # [t, h, d] -> [h, t, d], one kernel call per segment: never t x t
            q, k, v = (x.transpose(0, 1) for x in (query, key, value))
            bounds = packed_seq_params.cu_seqlens_q.tolist()
            parts = [
                F.scaled_dot_product_attention(
                    q[:, a:b],
                    k[:, a:b],
                    v[:, a:b],
                    dropout_p=dropout,
                    is_causal=True,
                    scale=self.softmax_scale,
                    enable_gqa=grouped,
                )
                for a, b in zip(bounds[:-1], bounds[1:], strict=True)
                if b > a
            ]
            return torch.cat(parts, dim=1).transpose(0, 1).reshape(query.size(0), -1)
        s, b = query.shape[:2]
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        allowed = None if attention_mask is None else ~attention_mask
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=allowed,
            dropout_p=dropout,
            is_causal=allowed is None,
            scale=self.softmax_scale,
            enable_gqa=grouped,
        )
        return out.permute(2, 0, 1, 3).reshape(s, b, -1)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """Return nothing: attention holds no weights."""
        return {}


class CpuRMSNorm(torch.nn.RMSNorm):
    """RMSNorm over the last dimension whose gain is marked for the gradient all-reduce of sequence parallel."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel
        del unused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension of float[..., h]."""
        if x.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return super().forward(x)
        return cpu_kernels.RMSNorm.apply(x, self.weight, self.eps)


class CpuMLP(MLP):
    """Megatron's feed-forward layer with SwiGLU in one operation; with any other activation it is Megatron's."""

    def forward(
        self, hidden_states: torch.Tensor, per_token_scale: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map float[s, b, h] to float[s, b, h] and a bias that is still to be added (None)."""
        config = self.config
        plain = (
            config.gated_linear_unit
            and config.activation_func is F.silu
            and config.activation_func_clamp_value is None
            and config.glu_linear_offset == 0.0
            and not config.add_bias_linear
            and hidden_states.dtype == torch.float32
            and per_token_scale is None
        )
        if not plain:
            return super().forward(hidden_states, per_token_scale, **kwargs)
        both, _ = self.linear_fc1(hidden_states)
        return self.linear_fc2(cpu_kernels.SwiGLU.apply(both))


class CpuFinalNorm(CpuRMSNorm):
    """The norm behind the last layer, with the empty extra state that Transformer Engine's loader asks for.

    Megatron's local linear layers save one for the same reason; so a checkpoint made on a CPU loads on GPUs.
    """

    def get_extra_state(self) -> torch.Tensor:
        """Return uint8[0]."""
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take nothing from it."""
        del state


def block_spec(model_config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """Return the layers of this pipeline stage and the final norm, for `GPTModelConfig.transformer_layer_spec`.

    Raises:
        UserError: a normalisation other than RMSNorm, or context parallel, was asked for on a CPU.
    """
    context = model_config.transformer.context_parallel_size
    if context > 1:
        raise UserError(
            f"context_parallel_size={context} needs Transformer Engine and GPUs; on a CPU set context_parallel_size=1"
        )
    return stage_spec(model_config, vp_stage)


def stage_spec(model_config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """Return what `block_spec` does, with context parallel too: attention then sees this rank's part of a sequence only.

    That has the shapes of the real thing and not its values, which is what a rehearsal needs.

    Raises:
        UserError: see `block_spec`.
    """
    config: TransformerConfig = model_config.transformer
    if config.normalization != "RMSNorm":
        raise UserError(
            f"normalization={config.normalization}: the CPU layers have RMSNorm only; set normalization=RMSNorm"
        )
    for name in UNSUPPORTED:
        if getattr(config, name, None):
            raise UserError(
                f"{name}={getattr(config, name)} is not built into the CPU layers; leave it out, or run on GPUs"
            )
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    layer.submodules.self_attention.submodules.core_attention = CpuAttention
    layer.submodules.input_layernorm = CpuRMSNorm
    layer.submodules.pre_mlp_layernorm = CpuRMSNorm
    layer.submodules.mlp = partial(CpuMLP.as_mlp_submodule, submodules=layer.submodules.mlp.keywords["submodules"])
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config, vp_stage), layer_norm=CpuFinalNorm
    )
