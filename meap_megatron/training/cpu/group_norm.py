"""The norm of a Mamba-2 layer without `mamba-ssm`, in the place of Megatron's `ExtendedRMSNorm`."""

from typing import Any

import torch


class GroupNorm(torch.nn.Module):
    """RMSNorm of every group of channels, with the gains of this tensor-parallel rank."""

    def __init__(
        self, channels: int, *, eps: float, group_size: int, device: Any, dtype: torch.dtype, norm_before_gate: bool
    ) -> None:
        super().__init__()
        assert not norm_before_gate, "the gate comes first in all of Megatron's models"
        self.weight = torch.nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.eps, self.group_size = eps, group_size
        self.tp_group: Any = None  # the mixer's, which sets it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise float[..., channels]."""
        grouped = x.unflatten(-1, (-1, self.group_size))
        return torch.nn.functional.rms_norm(grouped, (self.group_size,), eps=self.eps).flatten(-2) * self.weight

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: tuple = (), metadata: Any = None) -> dict:
        """Return the gains, split like the channels."""
        from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

        return make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
