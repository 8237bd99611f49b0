"""Mamba-2 layers that need nothing but torch: Megatron's mixer with its CUDA kernels' function in plain operations.

Weights, their sharding and their names are Megatron's, so that a checkpoint moves freely between this and the kernels of
`mamba-ssm`. The recurrence (arXiv:2405.21060, section 6), with one state H[p, n] per head and a = exp(dt * A):

    H_t = a_t H_(t-1) + dt_t x_t B_t^T,    y_t = H_t C_t + D x_t

It is computed in chunks: by products of matrices within a chunk, and by one state handed from chunk to chunk.

Shapes: b batch, l length, h heads, p head size, g groups of heads with one B and C, n state size, c chunks of q positions.
"""

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.ssm.mamba_mixer import MambaMixer

CHUNK = 64
"""Positions of a chunk: a matter of speed and memory, not of the result."""


def causal_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, segments: torch.Tensor | None = None
) -> torch.Tensor:
    """Return each channel of float[b, l, channels] convolved with its past, which ends where its segment begins.

    Args:
        x: float[b, l, channels].
        weight: float[channels, width]; the last entry belongs to the position itself.
        bias: float[channels].
        segments: int[b, l], ascending; None: one.
    """
    length, width = x.size(1), weight.size(1)
    out = x * weight[:, -1] + bias
    for back in range(1, min(width, length)):
        past = x[:, :-back]
        if segments is not None:
            past = past * (segments[:, back:] == segments[:, :-back]).unsqueeze(-1)
        out = out + F.pad(past * weight[:, -1 - back], (0, 0, back, 0))
    return out


def scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    segments: torch.Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """Return H_t C_t of the recurrence, float[b, l, h, p].

    Args:
        x: float[b, l, h, p].
        dt: float[b, l, h], above 0.
        A: float[h], below 0.
        B: float[b, l, g, n]; h is a multiple of g.
        C: as `B`.
        segments: int[b, l], ascending: the state is 0 where one begins. None: one.
        chunk: positions that are computed at once.
    """
    (batch, length, heads, size), groups = x.shape, B.size(2)
    segments = torch.zeros(1, length, dtype=torch.int32, device=x.device) if segments is None else segments
    pad = -length % chunk
    # Behind the end: nothing is put into the state, and what comes out is cut off.
    x, dt, B, C = (F.pad(one, (*(0, 0) * (one.dim() - 2), 0, pad)) for one in (x, dt, B, C))
    own = torch.cat([segments, segments[:, -1:].expand(-1, pad)], dim=1).unflatten(1, (-1, chunk))  # [b, c, q]
    x = (x * dt.unsqueeze(-1)).view(batch, -1, chunk, groups, heads // groups, size)
    B, C = (one.unflatten(1, (-1, chunk)) for one in (B, C))  # [b, c, q, g, n]
    # [b, c, g, h / g, q]: the logarithm of what is left at q of the state before the chunk
    left = (dt * A).view(batch, -1, chunk, groups, heads // groups).permute(0, 1, 3, 4, 2).cumsum(-1)

    alike = (own.unsqueeze(-1) == own.unsqueeze(-2)).tril()[:, :, None, None]  # [b, c, 1, 1, q, q]
    between = (left.unsqueeze(-1) - left.unsqueeze(-2)).masked_fill(~alike, float("-inf")).exp()
    scores = torch.einsum("bcqgn,bckgn->bcgqk", C, B).unsqueeze(3) * between
    out = torch.einsum("bcgrqk,bckgrp->bcqgrp", scores, x)

    put = x * between[..., -1, :].permute(0, 1, 4, 2, 3).unsqueeze(-1)
    added = torch.einsum("bckgrp,bckgn->bcgrpn", put, B)  # by each chunk to the state at its end
    last = own[..., -1]
    before = torch.cat([own[:, :1, 0], last[:, :-1]], dim=1)  # segment of the state that a chunk is handed
    kept = left[..., -1].exp() * (before == last)[..., None, None]
    state, states = torch.zeros_like(added[:, 0]), []
    for number in range(added.size(1)):
        states.append(state)
        state = kept[:, number, ..., None, None] * state + added[:, number]
    reach = left.exp() * (own == before.unsqueeze(-1))[:, :, None, None]
    carried = torch.einsum("bcqgn,bcgrpn->bcqgrp", C, torch.stack(states, dim=1))
    out = out + carried * reach.permute(0, 1, 4, 2, 3).unsqueeze(-1)
    return out.reshape(batch, -1, heads, size)[:, :length]


class TorchMambaMixer(MambaMixer):
    """Megatron's mixer for training, without `mamba-ssm` and `einops`; `patches.on_cpu` lets it be built."""

    def _ssm_training(self, zxBCdt: torch.Tensor, packed_seq_params: PackedSeqParams | None = None) -> torch.Tensor:
        """Map the input projection, float[l, b, ...], to the input of the output projection, float[l, b, d_inner].

        As in the kernels, everything but the convolution is in float32 at least.
        """
        channels, state, groups = self.d_inner_local_tp, self.d_state, self.ngroups_local_tp
        z, xBC, dt = zxBCdt.transpose(0, 1).split(
            [channels, channels + 2 * groups * state, self.nheads_local_tp], dim=-1
        )
        segments = None
        if packed_seq_params is not None:
            segments = packed_seq_params.seq_idx
            assert segments is not None, "without numbers, the state would pass from segment to segment"
        xBC = F.silu(causal_convolution(xBC, self.conv1d_weight.squeeze(1), self.conv1d_bias, segments))
        wide = torch.promote_types(xBC.dtype, torch.float32)
        x, B, C = xBC.to(wide).split([channels, groups * state, groups * state], dim=-1)
        x = x.unflatten(-1, (-1, self.headdim))
        B, C = (one.unflatten(-1, (groups, state)) for one in (B, C))
        steps = F.softplus(dt.to(wide) + self.dt_bias.to(wide))
        y = scan(x, steps, -self.A_log.to(wide).exp(), B, C, segments) + self.D.to(wide).unsqueeze(-1) * x
        y = (y.flatten(-2) * F.silu(z.to(wide))).to(z.dtype)
        return self.norm(y.transpose(0, 1))
