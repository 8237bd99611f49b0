"""Layers that need nothing but torch, for a CPU and for GPUs without Transformer Engine.

They fill the same slots of Megatron's layer spec, under the same parameter names, as Megatron's local layers, so that a
checkpoint moves freely between them, those, and Transformer Engine's. Three things Megatron's local layers cannot do are
added: attention that never holds all scores, packed segments (`packed_seq_params`, the counterpart of Transformer Engine's
THD format), and norms under sequence parallel. On a CPU, norm and feed-forward layer are `cpu.kernels` in float32.

Shapes: s sequence, b batch, h heads, g key-value heads (groups), d head size, t = tokens of all segments.
"""

import contextlib
import functools
import inspect
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn.attention import SDPBackend, sdpa_kernel

from meap_megatron.errors import UserError
from meap_megatron.training.cpu import kernels

UNSUPPORTED = {
    "num_moe_experts": "--num-experts",
    "multi_latent_attention": "--multi-latent-attention",
    "window_size": "--window-size",
    "layernorm_zero_centered_gamma": "--apply-layernorm-1p",
    "mtp_num_layers": "--mtp-num-layers",
    "experimental_attention_variant": "--experimental-attention-variant",
}
"""Fields of Megatron's configuration that would change the model and that these layers do not read, and their flags."""

FLASH_HEAD_SIZE = 256
"""Largest head size of torch's flash attention; it must be a multiple of 8."""


@functools.cache
def has_flash(device: torch.device) -> bool:
    """Tell whether torch's flash attention runs on a device: NVIDIA GPUs from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def takes_flash(query: torch.Tensor) -> bool:
    """Tell whether torch's flash attention takes this type, head size and device."""
    size = query.size(-1)
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and size <= FLASH_HEAD_SIZE and size % 8 == 0 and has_flash(query.device)


@functools.cache
def varlen_kernel() -> tuple[Any, bool] | None:
    """Return torch's attention over packed segments and whether it takes grouped heads; None before torch 2.11."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    # torch 2.10 takes neither a scale nor, later on, `is_causal`.
    return (varlen_attn, "enable_gqa" in parameters) if {"window_size", "scale"} <= set(parameters) else None


def segment_bounds(packed: PackedSeqParams) -> list[int]:
    """Return where the segments begin and end, [segments + 1]; on a GPU the host waits for it, once per micro-batch."""
    if not hasattr(packed, "segment_bounds"):
        packed.segment_bounds = packed.cu_seqlens_q.tolist()
    return packed.segment_bounds


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    allowed: torch.Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """Return causal attention [b, h, s, d] of [b, h, s, d] and twice [b, g, s, d].

    Args:
        query: float[b, h, s, d].
        key: float[b, g, s, d]; h is a multiple of g.
        value: as `key`.
        allowed: bool[b, 1, s, s], true where attention is allowed, or None for plain causal.
        dropout: probability.
        scale: of the scores; None: d ** -0.5.
    """
    grouped = query.size(1) != key.size(1)
    if grouped and query.is_cuda and (allowed is not None or not takes_flash(query)):
        # Torch's memory-efficient kernel has no grouped heads; the one that has holds all scores.
        key, value = (x.repeat_interleave(query.size(1) // x.size(1), dim=1) for x in (key, value))
        grouped = False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=allowed,
        dropout_p=dropout,
        is_causal=allowed is None,
        scale=scale,
        enable_gqa=grouped,
    )


def attend_by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedSeqParams,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> torch.Tensor:
    """Return causal attention [t, h, d] within each segment of [t, h, d] and twice [t, g, d], one call per segment."""
    # [t, h, d] -> [1, h, t, d]: only with four dimensions does torch take a fused kernel
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    bounds = segment_bounds(packed)
    parts = [
        attend(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], dropout=dropout, scale=scale)
        for a, b in zip(bounds[:-1], bounds[1:], strict=True)
        if b > a
    ]
    return torch.cat(parts, dim=2).squeeze(0).transpose(0, 1)


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: PackedSeqParams,
    *,
    scale: float | None = None,
) -> torch.Tensor:
    """Return what `attend_by_segment` does, of one kernel of torch for all segments; only where `takes_varlen`."""
    kernel = varlen_kernel()
    assert kernel is not None
    varlen_attn, takes_groups = kernel
    grouped: dict[str, bool] = {}
    if query.size(1) != key.size(1):
        if takes_groups:
            grouped = {"enable_gqa": True}
        else:
            key, value = (x.repeat_interleave(query.size(1) // x.size(1), dim=1) for x in (key, value))
    bounds, longest = packed.cu_seqlens_q, int(packed.max_seqlen_q)
    # cuDNN's kernel, which newer versions of torch prefer, adds in no fixed order.
    exact = torch.are_deterministic_algorithms_enabled()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if exact else contextlib.nullcontext():
        return varlen_attn(
            query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0), **grouped
        )


def takes_varlen(query: torch.Tensor, *, dropout: float) -> bool:
    """Tell whether torch's kernel for packed segments takes this query: 16 bits, without dropout, torch 2.11."""
    return dropout == 0.0 and takes_flash(query) and varlen_kernel() is not None


class TorchAttention(MegatronModule):
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
            attention_bias: must be None.
            packed_seq_params: `cu_seqlens_q` int32[segments + 1] bounds the segments, `max_seqlen_q` is the longest.

        Returns:
            [s, b, h * d], or [t, h * d] with packed segments.
        """
        if attention_bias is not None:
            raise UserError("attention bias needs Transformer Engine; torch's layers have none")
        dropout = self.config.attention_dropout if self.training else 0.0
        scale = self.softmax_scale
        if packed_seq_params is not None:
            if takes_varlen(query, dropout=dropout):
                out = attend_packed(query, key, value, packed_seq_params, scale=scale)
            else:
                out = attend_by_segment(query, key, value, packed_seq_params, dropout=dropout, scale=scale)
            return out.reshape(query.size(0), -1)
        s, b = query.shape[:2]
        q, k, v = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        allowed = None if attention_mask is None else ~attention_mask
        out = attend(q, k, v, allowed=allowed, dropout=dropout, scale=scale)
        return out.permute(2, 0, 1, 3).reshape(s, b, -1)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None) -> dict:
        """Return nothing: attention holds no weights."""
        return {}


class TorchRMSNorm(torch.nn.RMSNorm):
    """RMSNorm over the last dimension whose gain is marked for the gradient all-reduce of sequence parallel."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel
        del unused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension of float[..., h]."""
        if kernels.takes(x) and self.weight.dtype == torch.float32:
            return kernels.RMSNorm.apply(x, self.weight, self.eps)
        return super().forward(x)


class TorchMLP(MLP):
    """Megatron's feed-forward layer, with SwiGLU of float32 on a CPU in one operation."""

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
            and kernels.takes(hidden_states)
            and per_token_scale is None
        )
        if not plain:
            return super().forward(hidden_states, per_token_scale, **kwargs)
        both, _ = self.linear_fc1(hidden_states)
        return self.linear_fc2(kernels.SwiGLU.apply(both))


class TorchLoneNorm(TorchRMSNorm):
    """A norm that Transformer Engine does not fuse with a linear layer, with the empty extra state that its loader asks for.

    Megatron's local linear layers save one for the same reason; so a checkpoint made here loads with Transformer Engine.
    """

    def get_extra_state(self) -> torch.Tensor:
        """Return uint8[0]."""
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Take nothing from it."""
        del state


def layer_spec(config: TransformerConfig) -> ModuleSpec:
    """Return one layer of a GPT: attention and feed-forward part, each behind its norm.

    Raises:
        UserError: a normalisation other than RMSNorm, or a kind of layer that is not here.
    """
    if config.normalization != "RMSNorm":
        raise UserError(
            f"normalization={config.normalization}: without Transformer Engine there is RMSNorm only",
            fix="set normalization=RMSNorm",
        )
    for name, flag in UNSUPPORTED.items():
        if value := getattr(config, name, None):
            typed = flag if value is True else f"{flag} {value}"
            raise UserError(f"{typed} needs Transformer Engine and GPUs", fix="leave it out, or install it")
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization=config.normalization)
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = TorchAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = TorchLoneNorm  # Megatron's refuses sequence parallel
    layer.submodules.input_layernorm = TorchRMSNorm
    layer.submodules.pre_mlp_layernorm = TorchRMSNorm
    layer.submodules.mlp = partial(TorchMLP.as_mlp_submodule, submodules=layer.submodules.mlp.keywords["submodules"])
    return layer


def block_spec(model_config: Any, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """Return the layers of this pipeline stage and the final norm, for `GPTModelConfig.transformer_layer_spec`.

    With context parallel, attention sees this rank's part of a sequence only: the shapes of the real thing and not its
    values, which is what a rehearsal needs; for a run `arguments.check` refuses it.

    Raises:
        UserError: see `layer_spec`.
    """
    config: TransformerConfig = model_config.transformer
    return TransformerBlockSubmodules(
        layer_specs=[layer_spec(config)] * get_num_layers_to_build(config, vp_stage), layer_norm=TorchLoneNorm
    )
