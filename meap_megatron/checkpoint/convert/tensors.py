"""Pure functions between the tensors of Hugging Face and the fused ones of Megatron.

Shapes: n query heads, g groups (key-value heads), m = n / g query heads per group, d head size, h hidden size. The
last axis [h] of a weight is absent for a bias.
"""

import torch


def fuse_qkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, groups: int) -> torch.Tensor:
    """Return Megatron's fused projection: for every group its query heads, then its key head, then its value head.

    Given n = 4, g = 2. Then the rows of heads are q0 q1 k0 v0 q2 q3 k1 v1.

    Args:
        q: [n * d, h] or [n * d].
        k: [g * d, h] or [g * d].
        v: as `k`.
        groups: g.

    Returns:
        [(n + 2 g) * d, h] or [(n + 2 g) * d].
    """
    rest = q.shape[1:]
    parts = [x.reshape(groups, x.shape[0] // groups, *rest) for x in (q, k, v)]
    return torch.cat(parts, dim=1).reshape(-1, *rest)


def split_qkv(
    qkv: torch.Tensor, *, heads: int, groups: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Undo `fuse_qkv`.

    Args:
        qkv: [(n + 2 g) * d, h] or [(n + 2 g) * d].
        heads: n.
        groups: g.
        head_dim: d.

    Returns:
        (q [n * d, h], k [g * d, h], v [g * d, h]), or the same without h.
    """
    rest = qkv.shape[1:]
    per_group = heads // groups * head_dim
    parts = qkv.reshape(groups, per_group + 2 * head_dim, *rest).split([per_group, head_dim, head_dim], dim=1)
    q, k, v = (part.reshape(-1, *rest) for part in parts)
    return q, k, v


def resized(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Return [rows, h]: the first rows of [v, h], or all of them and zeros below."""
    if rows <= table.shape[0]:
        return table[:rows]
    larger = table.new_zeros(rows, table.shape[1])
    larger[: table.shape[0]] = table
    return larger
