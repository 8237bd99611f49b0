"""Small checkpoint folders, made as Megatron and this project make them."""

import warnings
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemWriter, save

from meap_megatron.checkpoint import manifest
from meap_megatron.checkpoint.folder import TRACKER, file_sizes, iteration_folder
from meap_megatron.checkpoint.manifest import Manifest


def plain_checkpoint(folder: Path, step: int) -> Path:
    """Write a real distributed checkpoint of two tensors, as plain Megatron leaves it, and let the tracker name it."""
    checkpoint = iteration_folder(folder, step)
    checkpoint.mkdir(parents=True)
    tensors = {"a": torch.arange(1000.0) + step, "b": torch.ones(500)}
    with warnings.catch_warnings(action="ignore"):  # that this is one process, as it should be
        save(tensors, storage_writer=FileSystemWriter(checkpoint), no_dist=True)
    (checkpoint / "metadata.json").write_text('{"sharded_backend": "torch_dist", "sharded_backend_version": 1}')
    (folder / TRACKER).write_text(str(step))
    return checkpoint


def good_checkpoint(folder: Path, step: int) -> Path:
    """Write a checkpoint with a complete manifest."""
    checkpoint = plain_checkpoint(folder, step)
    files = manifest.file_entries(checkpoint, file_sizes(checkpoint))
    entries = {name: entry for name, entry in files.items() if not isinstance(entry, OSError)}
    layout = {"world": 4, "tensor": 2, "pipeline": 2, "context": 1, "data": 1}
    manifest.write(
        checkpoint,
        Manifest(
            iteration=step,
            complete=True,
            consumed_samples=8 * step,
            layout=layout,
            versions=manifest.library_versions(),
            written="2026-01-02T03:04:05+00:00",
            files=entries,
        ),
    )
    return checkpoint


def unfinished_checkpoint(folder: Path, step: int) -> Path:
    """Leave what a save leaves that is killed while it writes tensors."""
    checkpoint = iteration_folder(folder, step)
    checkpoint.mkdir(parents=True)
    manifest.write(checkpoint, Manifest(iteration=step, complete=False))
    (checkpoint / "__0_0.distcp").write_bytes(b"x" * 100)
    return checkpoint


def flip_a_byte(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
