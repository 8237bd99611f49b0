"""States of random generators in a checkpoint: those of a CPU mean nothing to a GPU, and the reverse."""

from pathlib import Path

from meap_megatron.checkpoint.folder import iteration_folder, read_tracker

CPU_BACKEND = "gloo"
"""Of every run on a CPU, and of no run on a GPU."""


def of_another_device(folder: Path, step: int | None, *, backend: str) -> bool:
    """Tell whether the checkpoint that Megatron is going to continue from was saved on the other kind of device.

    Their states differ in size, so that Megatron could not load them. Nothing else depends on them than dropout: the order
    of the data and the masks follow from the seed.
    """
    step = step or read_tracker(folder).iteration
    checkpoint = iteration_folder(folder, step) if step else None
    if checkpoint is None or not checkpoint.is_dir():
        return False
    from megatron.core import dist_checkpointing

    if not dist_checkpointing.check_is_distributed_checkpoint(str(checkpoint)):
        return False
    there = dist_checkpointing.load_common_state_dict(str(checkpoint)).get("args")
    return bool((getattr(there, "distributed_backend", backend) == CPU_BACKEND) != (backend == CPU_BACKEND))
