"""Read the tensors of a checkpoint that Megatron wrote, without Megatron."""

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp


def tensors(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    """Return every floating-point tensor of a run's checkpoint, whole, as float64; optimizer state included."""
    reader = dcp.FileSystemReader(run / f"iter_{iteration:07d}")
    entries = reader.read_metadata().state_dict_metadata
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if hasattr(entry, "size") and entry.properties.dtype.is_floating_point
    }
    dcp.load(found, storage_reader=reader, no_dist=True)
    return {name: tensor.double() for name, tensor in found.items()}


def weights(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    """Return the model's tensors alone."""
    return {name: value for name, value in tensors(run, iteration).items() if not name.startswith("optimizer")}
