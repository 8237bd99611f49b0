"""States of random generators in a checkpoint: those of a CPU mean nothing to a GPU, and the reverse."""

from pathlib import Path
from typing import Any

from meap_megatron.checkpoint.folder import iteration_folder, read_tracker

CPU_BACKEND = "gloo"
"""Of every run on a CPU, and of no run on a GPU."""


def of_another_device(args: Any) -> bool:
    """Tell whether the checkpoint that Megatron is going to continue from was saved on the other kind of device.

    Their states differ in size, so that Megatron could not load them. Nothing else depends on them than dropout: the order
    of the data and the masks follow from the seed.
    """
    if not args.load or args.finetune or args.no_load_rng:
        return False
    folder = Path(args.load)
    step = args.ckpt_step or read_tracker(folder).iteration
    checkpoint = iteration_folder(folder, step) if step else None
    if checkpoint is None or not checkpoint.is_dir():
        return False
    from megatron.core import dist_checkpointing

    if not dist_checkpointing.check_is_distributed_checkpoint(str(checkpoint)):
        return False
    there = dist_checkpointing.load_common_state_dict(str(checkpoint)).get("args")
    backend = getattr(there, "distributed_backend", args.distributed_backend)
    return bool((backend == CPU_BACKEND) != (args.distributed_backend == CPU_BACKEND))
