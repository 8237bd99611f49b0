"""What Megatron 0.19 hard-codes to CUDA, replaced with `device=cpu` and never when a GPU is used."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

from meap_megatron.training.cpu import cross_entropy, group_norm, kernels, linear, stubs
from meap_megatron.training.patches.entries import Redirect, by


def without_cuda(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tensor factory: `device="cuda"` becomes the CPU, and memory is not pinned."""

    @functools.wraps(function)
    def factory(*args: Any, **kwargs: Any) -> Any:
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = stubs.CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return function(*args, **kwargs)

    return factory


def move_without_cuda(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Tensor.to`: a CUDA target becomes the CPU, wherever the argument is."""

    @functools.wraps(method)
    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        args = tuple(stubs.CPU if is_cuda(a) else a for a in args)
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = stubs.CPU
        return method(tensor, *args, **kwargs)

    return to


def is_cuda(value: Any) -> bool:
    """Tell whether an argument names a CUDA device."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.startswith("cuda")


def type_as_on_cuda(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Tensor.type`: Megatron's optimizers sort parameters by names such as 'torch.cuda.FloatTensor'."""

    @functools.wraps(method)
    def type_of(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = method(tensor, *args, **kwargs)
        if isinstance(result, str) and not result.startswith("torch.cuda."):
            return "torch.cuda." + result.removeprefix("torch.").removeprefix("meta.")
        return result

    return type_of


def autocast_on_cpu(function: Any) -> Any:
    """Wrap `torch.autocast`: Megatron's schedules name 'cuda'."""

    @functools.wraps(function, updated=())
    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return function("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return autocast


CPU: tuple[Redirect, ...] = (
    *(
        Redirect(target=f"torch:{name}", make=without_cuda, why="factories with device='cuda' or pinned memory")
        for name in (
            "tensor",
            "empty",
            "zeros",
            "ones",
            "full",
            "arange",
            "rand",
            "randn",
            "empty_like",
            "zeros_like",
            "ones_like",
        )
    ),
    Redirect(target="torch:Tensor.to", make=move_without_cuda, why="tensor.to('cuda')"),
    Redirect(target="torch:Tensor.cuda", make=by(stubs.unchanged), why="tensor.cuda()"),
    Redirect(target="torch:Tensor.pin_memory", make=by(stubs.unchanged), why="pinning needs a GPU"),
    Redirect(target="torch:Tensor.type", make=type_as_on_cuda, why="optimizers compare with 'torch.cuda.FloatTensor'"),
    Redirect(target="torch:nn.Module.cuda", make=by(stubs.unchanged), why="model.cuda(device)"),
    Redirect(target="torch:autocast", make=autocast_on_cpu, why="schedules open torch.autocast('cuda')"),
    Redirect(target="torch.cuda:current_device", make=by(stubs.cpu_device), why="device of new tensors, everywhere"),
    Redirect(
        target="torch.cuda:device_count", make=by(stubs.giving(1)), why="0 would divide by zero in async checkpoints"
    ),
    Redirect(
        target="torch.cuda:is_available",
        make=by(stubs.giving(False)),
        why="a GPU beside the CPU run, or that one device asked for by NVML's count, is not to be touched: torch's loader "
        "would pin memory, Megatron time its kernels",
    ),
    Redirect(target="torch.cuda:set_device", make=by(stubs.NOTHING), why="distributed initialisation"),
    Redirect(target="torch.cuda:synchronize", make=by(stubs.NOTHING), why="timers, checkpoints"),
    Redirect(target="torch.cuda:empty_cache", make=by(stubs.NOTHING), why="after loading a checkpoint"),
    Redirect(target="torch.cuda:current_stream", make=by(stubs.STREAM), why="gradient buffers"),
    Redirect(target="torch.cuda:default_stream", make=by(stubs.STREAM), why="gradient buffers"),
    Redirect(target="torch.cuda:Stream", make=lambda original: stubs.FinishedStream, why="communication streams"),
    Redirect(target="torch.cuda:Event", make=lambda original: stubs.FinishedEvent, why="events between streams"),
    Redirect(
        target="torch.cuda:stream", make=by(lambda *args: contextlib.nullcontext()), why="with torch.cuda.stream(...)"
    ),
    Redirect(target="torch.cuda:set_stream", make=by(stubs.NOTHING), why="stream switch"),
    Redirect(target="torch.cuda:nvtx.range_push", make=by(stubs.NOTHING), why="profiler ranges"),
    Redirect(target="torch.cuda:nvtx.range_pop", make=by(stubs.NOTHING), why="profiler ranges"),
    *(
        Redirect(target=f"torch.cuda:{name}", make=by(stubs.ZERO), why="memory report")
        for name in (
            "memory_allocated",
            "max_memory_allocated",
            "memory_reserved",
            "max_memory_reserved",
            "device_memory_used",
        )
    ),
    Redirect(target="torch.cuda:memory_stats", make=by(stubs.MEMORY_STATS), why="memory report"),
    Redirect(target="torch.cuda:reset_peak_memory_stats", make=by(stubs.NOTHING), why="memory report"),
    Redirect(target="torch.cuda:get_device_properties", make=by(stubs.PROPERTIES), why="architecture checks"),
    Redirect(target="torch.cuda:get_device_capability", make=by(stubs.giving((8, 0))), why="architecture checks"),
    Redirect(target="torch.cuda:get_rng_state", make=by(stubs.get_rng_state), why="RNG state in checkpoints"),
    Redirect(target="torch.cuda:set_rng_state", make=by(stubs.set_rng_state), why="RNG state in checkpoints"),
    Redirect(target="torch.cuda:random.get_rng_state", make=by(stubs.get_rng_state), why="RNG tracker"),
    Redirect(target="torch.cuda:random.set_rng_state", make=by(stubs.set_rng_state), why="RNG tracker"),
    Redirect(target="torch.cuda:manual_seed", make=by(stubs.manual_seed), why="RNG tracker"),
    Redirect(target="torch.cuda:default_generators", make=lambda original: stubs.CpuGenerators(), why="RNG tracker"),
    Redirect(target="torch.cuda:_lazy_init", make=by(stubs.NOTHING), why="imported by the RNG tracker"),
    Redirect(target="torch.cuda:_lazy_call", make=by(stubs.call_now), why="imported by the RNG tracker"),
    Redirect(target="torch.cuda:is_initialized", make=by(stubs.giving(True)), why="asked before RNG calls"),
    Redirect(
        target="megatron.core.tensor_parallel.random:_set_cuda_rng_state",
        make=lambda original: lambda state, device=-1, graph_safe=False: stubs.set_rng_state(state),
        why="indexes CUDA generators when a rank's RNG state is set",
    ),
    Redirect(
        target="megatron.training.training:set_jit_fusion_options",
        make=by(stubs.NOTHING),
        why="compiles and warms up fused CUDA operations that no CPU layer uses",
    ),
    Redirect(
        target="megatron.training.training:initialize_megatron",
        make=lambda original: functools.partial(original, allow_no_cuda=True),
        why="pretrain() does not pass allow_no_cuda on",
    ),
    Redirect(
        target="megatron.core.tensor_parallel:vocab_parallel_cross_entropy",
        make=cross_entropy.cross_entropy_on_cpu,
        why="speed: seven passes over all logits become one (docs/benchmarks/step.md)",
    ),
    Redirect(
        target="megatron.core.tensor_parallel.layers:linear_with_grad_accumulation_and_async_allreduce",
        make=linear.linear_on_cpu,
        why="speed: faster matrix products, and gradients added in place without Apex (docs/benchmarks/step.md)",
    ),
    *(
        Redirect(
            target=f"megatron.core.ssm.{name}",
            make=lambda original: True,
            why="a Mamba-2 layer is not built without packages of CUDA kernels, none of which `TorchMambaMixer` calls",
        )
        for name in ("mamba_mixer:HAVE_MAMBA_SSM", "mamba_mixer:HAVE_EINOPS", "mamba_context_parallel:HAVE_EINOPS")
    ),
    Redirect(
        target="megatron.core.ssm.mamba_mixer:ExtendedRMSNorm",
        make=lambda original: group_norm.GroupNorm,
        why="Megatron derives it from a class of mamba-ssm, and from a mock without it",
    ),
    Redirect(
        target="megatron.core.ssm.gated_delta_net.common:HAVE_FLA",
        make=lambda original: True,
        why="a gated delta net is not built without Triton's kernels, of which its deterministic mode runs only l2norm",
    ),
    Redirect(
        target="megatron.core.ssm.gated_delta_net.common:l2norm",
        make=by(kernels.l2norm),
        why="the one kernel of Triton that the deterministic mode of a gated delta net calls",
    ),
)
