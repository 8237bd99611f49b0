"""What takes the place of the GPU, of Transformer Engine and of the other ranks, and what therefore is not checked."""

import contextlib
from collections.abc import Iterator
from typing import Any

from meap_megatron.rehearsal.job import RehearsedJob
from meap_megatron.training import platform

ALONE = ("--fake-process-group", "--num-workers=0")
"""Megatron's flag for torch's fake process group: collectives return at once and exchange nothing."""

ENGINE_ONLY = (
    "use_precision_aware_optimizer",
    "tp_comm_overlap",
    "fp8_param_gather",
    "reuse_grad_buf_for_mxfp8_param_ag",
)
"""Settings that Megatron refuses, or that do something else, where Transformer Engine is not installed."""


def left_out(job: RehearsedJob) -> list[str]:
    """Return the settings of the job that cannot be rehearsed without Transformer Engine."""
    return [name for name in ENGINE_ONLY if job.settings.has(name)]


def argv_of(job: RehearsedJob) -> list[str]:
    """Return the command line of a rank at its true sizes, without GPU and neighbours."""
    given = job.argv
    if job.device == "cpu":
        return [*given, *platform.flags_for("cpu", given), *ALONE, "--init-model-with-meta-device"]
    options = {job.flags[name].option for name in left_out(job)}
    options |= {option.replace("--", "--no-", 1) for option in options}
    kept, skipping = [], False
    for argument in given:
        if argument.startswith("--"):
            skipping = argument.split("=", 1)[0] in options
        if not skipping:
            kept.append(argument)
    # Megatron refuses these two kernels where Transformer Engine and Apex are not installed.
    own = ["--no-rope-fusion", "--no-gradient-accumulation-fusion"]
    if not job.settings.on("reset_attention_mask"):
        own.append("--no-create-attention-mask-in-dataloader")  # as the run does where Transformer Engine is installed
    return [*kept, *own, *ALONE, "--init-model-with-meta-device"]


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """Inside, what Megatron makes on the GPU is made on the meta device: shapes and types, no memory."""
    import torch

    from meap_megatron.training.cpu import stubs

    before = stubs.CPU
    stubs.CPU = torch.device("meta")
    try:
        yield
    finally:
        stubs.CPU = before


class _TensorRankZero:
    """Megatron's `mpu`, in which this rank is the first of its tensor-parallel group."""

    @staticmethod
    def get_tensor_model_parallel_rank() -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        from megatron.core import mpu

        return getattr(mpu, name)


@contextlib.contextmanager
def own_samples() -> Iterator[None]:
    """Inside, every rank reads its samples itself: nothing arrives from tensor-parallel rank 0, which broadcasts them."""
    from meap_megatron.training import batch

    before = batch.mpu
    batch.mpu = _TensorRankZero()
    try:
        yield
    finally:
        batch.mpu = before


def replaced(job: RehearsedJob, *, shapes: bool, steps: bool) -> list[str]:
    """Return what stood in for something else in the modes that were rehearsed, for people."""
    found = ["the other ranks: torch's fake process group, whose collectives exchange nothing"]
    if job.device == "cuda":
        found.append("Transformer Engine's layers: the CPU layers, with the same parameters in the same shapes")
    if shapes:
        found.append("tensors: the meta device, which has shapes and types and no values")
    if precision := job.settings.get("fp8_format"):
        found.append(f"FP8 ({precision}, {job.settings.get('fp8_recipe') or 'delayed'}): bfloat16")
    if steps and job.layout.context > 1:
        found.append("attention under context parallel: each rank attends within its own part of a sequence")
    if steps:
        found.append("for the steps, widths, sequence, vocabulary and data: small ones, the data made up")
    if steps and job.layout.tensor > 1:
        found.append("the broadcast of samples within a tensor-parallel group: every rank reads them itself")
    if names := left_out(job):
        found.append(f"left out, because they need Transformer Engine: {', '.join(names)}")
    workers = job.settings.get("num_workers")
    if workers != 0:
        found.append(f"{workers or 2} data loader workers: the rank itself")
    return found


def unchecked(job: RehearsedJob) -> list[str]:
    """Return what no rehearsal on a CPU can tell."""
    found = ["speed", "activation memory", "NCCL and the network", "the values that training computes"]
    return [*found, "CUDA kernels and whether they take these shapes"] if job.device == "cuda" else found
