"""Megatron's `dataloader_type=external`: what a run reads through DALI instead of torch's DataLoader.

Megatron hands an external loader's batches to the step as they come and asks nothing else of it, so where it begins is said
here: at the samples that the checkpoint counts as consumed, in the order of Megatron's own sampler.
"""

import importlib.util
from typing import Any

from meap_megatron.errors import UserError

REFUSED = ("full_validation", "multiple_validation_sets", "hybrid_context_parallel", "phase_transition_iterations")
"""Settings under which Megatron's loader reads in another order."""


def check(args: Any) -> None:
    """Refuse an external loader that is not installed, or that would read in another order than Megatron's.

    Raises:
        UserError: naming the setting.
    """
    for name in REFUSED:
        if getattr(args, name):
            raise UserError(
                f"dataloader_type=external reads samples in the order of dataloader_type=single, which {name} changes; "
                "leave one of them out"
            )
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.dali") is None:
        raise UserError(
            "dataloader_type=external reads through NVIDIA DALI, which is not installed: pip install "
            "nvidia-dali-cuda130 (600 MB), or leave dataloader_type out"
        )


def external_loaders(args: Any, datasets: list, *, device: str) -> list:
    """Return the loaders of train, validation and test, None where there is no dataset on this rank.

    Args:
        args: Megatron's arguments, once a checkpoint is read.
        datasets: train, validation, test.
        device: "cpu" or "cuda".
    """
    import torch
    from megatron.core import mpu
    from megatron.training.datasets.data_samplers import MegatronPretrainingSampler

    from meap_megatron.datasets.dali import DaliLoader

    device_id = torch.cuda.current_device() if device == "cuda" else None
    consumed_valid = 0 if args.skip_train else args.consumed_valid_samples
    rows = [
        (args.consumed_train_samples, args.micro_batch_size),
        (consumed_valid, args.eval_micro_batch_size),
        (0, args.eval_micro_batch_size),
    ]
    loaders: list[DaliLoader | None] = []
    for dataset, (consumed, micro_batch_size) in zip(datasets, rows, strict=True):
        if dataset is None:
            loaders.append(None)
            continue
        sampler = MegatronPretrainingSampler(
            total_samples=len(dataset),
            consumed_samples=consumed,
            micro_batch_size=micro_batch_size,
            data_parallel_rank=mpu.get_data_parallel_rank(),
            data_parallel_size=mpu.get_data_parallel_world_size(),
        )
        loaders.append(DaliLoader(dataset, sampler, micro_batch_size=micro_batch_size, device_id=device_id))
    return loaders
