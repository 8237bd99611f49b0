"""What is left of a run that ended early: its exit status, and what is on the disk."""

import signal
from pathlib import Path

from meap_megatron.checkpoint.folder import iteration_folder, read_tracker

TOLD = 128 + signal.SIGTERM
"""Status of a run that was told to end before Megatron listens, which it does from the first step on."""


def saved(save: str | None, step: int | None = None) -> str:
    """Return what of a run is on the disk."""
    if save is None:
        return "nothing was saved, since save is not set"
    newest = read_tracker(Path(save)).iteration
    if newest is None:
        return "nothing was saved"
    return (
        f"saved {iteration_folder(Path(save), newest)}"
        if newest == step
        else f"the newest checkpoint is of step {newest:,}"
    )
