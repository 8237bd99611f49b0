"""Remove old checkpoints, but never below two good ones and never one that no manifest vouches for."""

import contextlib
import shutil
from pathlib import Path

from meap_megatron.checkpoint import manifest
from meap_megatron.checkpoint.check import inspect
from meap_megatron.checkpoint.folder import iteration_folder, iterations

LEAST_KEPT = 2
PREFIX = "removed-"
"""Of a folder on its way out: renamed first, so that a kill half-way leaves nothing that looks like a checkpoint."""


def prune(folder: Path, *, newest: int, keep: int) -> list[int]:
    """Remove checkpoints older than the `keep` newest good ones, and return their steps.

    Args:
        newest: the step just saved; later ones (of a run that was set back) are neither counted nor removed.
        keep: how many good checkpoints stay, at least `LEAST_KEPT`.

    Raises:
        ValueError: keep is below `LEAST_KEPT`.
    """
    if keep < LEAST_KEPT:
        raise ValueError(f"keep={keep} must be at least {LEAST_KEPT}")
    for leftover in folder.glob(f"{PREFIX}iter_*"):
        shutil.rmtree(leftover, ignore_errors=True)
    good = [n for n in iterations(folder) if n <= newest and is_ours(iteration_folder(folder, n))]
    if newest not in good:
        return []
    removed = []
    for iteration in good[:-keep]:
        checkpoint = iteration_folder(folder, iteration)
        if checkpoint.is_symlink():
            continue
        going = checkpoint.with_name(PREFIX + checkpoint.name)
        with contextlib.suppress(OSError):
            checkpoint.rename(going)
            shutil.rmtree(going)
            removed.append(iteration)
    return removed


def is_ours(checkpoint: Path) -> bool:
    """Tell whether a checkpoint has a manifest and the files in it have the sizes it states."""
    return (checkpoint / manifest.NAME).exists() and inspect(checkpoint, "sizes").state == "good"
