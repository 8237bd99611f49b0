"""Rotary embedding where Transformer Engine's kernel is not used: one replacement of Megatron's function, on every device.

Packed segments: Megatron's unfused form reads the bounds on the host, twice per layer, and rotates one segment after the
other. Here every token looks its angle up by its position in its segment, without the host.

Float32 on a CPU: one pass over memory (`cpu.kernels.Rotate`) instead of Megatron's six. All else stays Megatron's.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from meap_megatron.training.cpu import kernels


def segment_positions(cu_seqlens: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return int32[tokens]: the position of each token in its segment, for int32 bounds [segments + 1].

    Given bounds [0, 3, 3, 5] then [0, 1, 2, 0, 1].
    """
    positions = torch.arange(tokens, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    return positions - cu_seqlens[torch.searchsorted(cu_seqlens, positions, right=True) - 1]


def rotary(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wrap Megatron's `apply_rotary_pos_emb`."""

    @functools.wraps(original)
    def apply_rotary_pos_emb(
        t: torch.Tensor, freqs: torch.Tensor, config: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        if args or config.apply_rope_fusion or kwargs.get("mla_rotary_interleaved"):
            return original(t, freqs, config, *args, **kwargs)
        bounds, group = kwargs.get("cu_seqlens"), kwargs.get("cp_group")
        if bounds is not None and group is not None and group.size() == 1:
            angles = freqs[segment_positions(bounds, t.size(0))]
            return apply_rotary_pos_emb(t.unsqueeze(1), angles, config, **(kwargs | {"cu_seqlens": None})).squeeze(1)
        plain = (
            bounds is None
            and kernels.takes(t)
            and t.dim() == 4
            and freqs.size(-1) == t.size(-1)
            and not config.rotary_interleaved
        )
        if not plain:
            return original(t, freqs, config, **kwargs)
        half = freqs[..., : t.size(-1) // 2]  # the second half repeats the first
        scale = kwargs.get("mscale", 1.0)  # YaRN's
        return kernels.Rotate.apply(t, half.cos() * scale, half.sin() * scale)

    return apply_rotary_pos_emb
