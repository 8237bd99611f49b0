"""Megatron's `dataloader_type=external`: what a run reads through DALI instead of torch's DataLoader.

Megatron hands an external loader's batches to the step as they come and asks nothing else of it, so where it begins is said
here: at the samples that the checkpoint counts as consumed, in the order of Megatron's own sampler.
"""


def external_loaders(datasets: list, reads: list[tuple[int, int]], *, device: str) -> list:
    """Return the loaders of train, validation and test, None where there is no dataset on this rank.

    Args:
        datasets: of the three splits.
        reads: per split, the samples that are consumed already, and those of a micro-batch.
        device: "cpu" or "cuda".
    """
    import torch
    from megatron.core import mpu
    from megatron.training.datasets.data_samplers import MegatronPretrainingSampler

    from meap_megatron.datasets.dali import DaliLoader

    device_id = torch.cuda.current_device() if device == "cuda" else None
    loaders: list[DaliLoader | None] = []
    for dataset, (consumed, micro_batch_size) in zip(datasets, reads, strict=True):
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
