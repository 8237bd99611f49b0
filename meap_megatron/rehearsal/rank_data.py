"""The samples of one rank: which ones it trains on, and its first micro-batch, read through the run's own loaders."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, TextIO

from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.rehearsal.preflight import Start

SHOWN = 4
"""Micro-batches of the first step whose samples are named."""


def prepare(args: Any, sidecars: list[Sidecar], screen: TextIO) -> tuple[Callable[..., Any], dict[str, Any] | None]:
    """Have the sample index in the cache, as the run would before it forms its process group.

    Args:
        sidecars: one per prefix; empty with mock data.
        screen: is told about an index that had to be built.

    Returns:
        (Megatron's dataset provider, the index: where it is, and samples and epochs of each source; None for mock data)

    Raises:
        UserError, RunError: data that does not fit, or a cache that cannot be written.
    """
    from meap_megatron.training import data, index_cache, startup_sync
    from meap_megatron.training.dataset_settings import index_request

    startup_sync.stand_alone()
    provider = data.make_provider(args, sidecars, on_first_call=lambda: None, screen=screen)
    if not sidecars:
        return provider, None
    entry = index_cache.obtain(index_request(args, sidecars), screen)
    return provider, {"path": str(entry.path), "sources": entry.facts["sources"]}


def read(args: Any, provider: Callable[..., Any], *, parts: int, start: Start) -> dict[str, Any]:
    """Return the samples that this rank trains on in its first step, and its first micro-batch if it reads any data.

    Args:
        parts: parts of the model on this rank.
    """
    from megatron.core import mpu
    from megatron.training.datasets.data_samplers import MegatronPretrainingSampler
    from megatron.training.training import build_train_valid_test_data_loaders, update_train_iters

    from meap_megatron.training.batch import CHANGED_INPUT, decode, stage_needs_data

    update_train_iters(args)
    args.iteration, args.consumed_train_samples = start.step, start.samples
    rows, ranks, step = args.micro_batch_size, args.data_parallel_size, args.global_batch_size
    segments = args.dataloader_inter_document_masking
    sampler = MegatronPretrainingSampler(
        total_samples=start.samples + step,
        consumed_samples=start.samples,
        micro_batch_size=rows,
        data_parallel_rank=mpu.get_data_parallel_rank(),
        data_parallel_size=ranks,
    )
    seen: dict[str, Any] = {
        "first_step": list(islice(sampler, SHOWN)) if args.dataloader_type == "single" else [],
        "micro_batches": step // (rows * ranks),
        "samples_per_step": step // ranks,
        "reads": False,
        "needs": any(stage_needs_data(segments, stage) for stage in stages(parts)),
        "reader": mpu.get_tensor_model_parallel_src_rank(),
    }
    for stage in stages(parts):
        stage_provider = partial(provider, vp_stage=stage)
        stage_provider.is_distributed = True  # type: ignore[attr-defined]
        train, _, _ = build_train_valid_test_data_loaders(stage_provider)
        if train is not None and not seen["reads"]:
            batch = next(iter(train))
            shape = list(batch["tokens"].shape)
            weights, marks = decode(batch["loss_mask"])
            masked = int(((marks & CHANGED_INPUT) > 0).sum())
            seen |= {"reads": True, "shape": shape, "masked": masked, "trained": float(weights.mean())}
    return seen


def stages(parts: int) -> list[int | None]:
    """Return the numbers of the virtual stages as Megatron asks for their data; None without interleaving."""
    return [None] if parts == 1 else list(range(parts))
