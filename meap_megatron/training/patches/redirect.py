"""Every place where a name of Megatron or torch is replaced at run time: the one list, and why each stands on it.

Nothing is written to site-packages and nothing is replaced on import: `install` is called once, by the entry point,
before Megatron is imported. Three lists:

* `CPU`: what Megatron 0.19 hard-codes to CUDA. Only with `device=cpu`; never when a GPU is used.
* `ALWAYS`: gaps of the megatron-core wheel and of its options, on every device.
* `MODULES`: optional packages that Megatron looks for, on a GPU with Transformer Engine.

`missing` names the entries whose target no longer exists; a test fails when upstream moves.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from meap_megatron.errors import RunError
from meap_megatron.training import checkpoint_hooks, work
from meap_megatron.training.cpu import cross_entropy, kernels, linear, stubs, tuning
from meap_megatron.training.patches import adam_step, rotary, schedule, torch_adam, weight_gradient

MEGATRON_VERSIONS = ("0.19",)
"""Release series of megatron-core for which the lists were read and tested."""


@dataclass(frozen=True, kw_only=True)
class Redirect:
    """One replaced name: `target` ("module:attribute.path"), what stands there instead, and why."""

    target: str
    make: Callable[[Any], Any]
    """Maps the original object to its replacement."""
    why: str

    def locate(self) -> tuple[Any, str]:
        """Return the object that holds the name, and the name."""
        module_name, _, path = self.target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name


def by(replacement: Callable[..., Any]) -> Callable[[Any], Any]:
    """Replace whatever stood there by a function that calls `replacement`.

    Each name gets a function of its own: torch.compile's tables refuse one object under two names.
    """

    def make(original: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: replacement(*args, **kwargs)

    return make


def is_cuda(device: Any) -> bool:
    """Tell whether a `device` argument names a CUDA device."""
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


def without_cuda(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a tensor factory: `device="cuda"` becomes the CPU, and memory is not pinned."""

    @functools.wraps(function)
    def factory(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None and is_cuda(kwargs["device"]):
            kwargs["device"] = stubs.CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return function(*args, **kwargs)

    return factory


def move_without_cuda(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Tensor.to`: a CUDA target becomes the CPU, wherever the argument stands."""

    @functools.wraps(method)
    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        args = tuple(stubs.CPU if is_device_argument(a) else a for a in args)
        if is_device_argument(kwargs.get("device")):
            kwargs["device"] = stubs.CPU
        return method(tensor, *args, **kwargs)

    return to


def is_device_argument(value: Any) -> bool:
    """Tell whether a positional argument of `Tensor.to` names a CUDA device."""
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
    Redirect(target="torch:Tensor.cuda", make=by(stubs.tensor_unchanged), why="tensor.cuda()"),
    Redirect(target="torch:Tensor.pin_memory", make=by(stubs.tensor_unchanged), why="pinning needs a GPU"),
    Redirect(target="torch:Tensor.type", make=type_as_on_cuda, why="optimizers compare with 'torch.cuda.FloatTensor'"),
    Redirect(target="torch:nn.Module.cuda", make=by(stubs.unchanged), why="model.cuda(device)"),
    Redirect(target="torch:autocast", make=autocast_on_cpu, why="schedules open torch.autocast('cuda')"),
    Redirect(target="torch.cuda:current_device", make=by(stubs.cpu_device), why="device of new tensors, everywhere"),
    Redirect(target="torch.cuda:device_count", make=by(stubs.one), why="0 would divide by zero in async checkpoints"),
    Redirect(
        target="torch.cuda:is_available",
        make=by(stubs.no),
        why="a GPU beside the CPU run, or that one device asked for by NVML's count, is not to be touched: torch's loader "
        "would pin memory, Megatron time its kernels",
    ),
    Redirect(target="torch.cuda:set_device", make=by(stubs.nothing), why="distributed initialisation"),
    Redirect(target="torch.cuda:synchronize", make=by(stubs.nothing), why="timers, checkpoints"),
    Redirect(target="torch.cuda:empty_cache", make=by(stubs.nothing), why="after loading a checkpoint"),
    Redirect(target="torch.cuda:current_stream", make=by(stubs.finished_stream), why="gradient buffers"),
    Redirect(target="torch.cuda:default_stream", make=by(stubs.finished_stream), why="gradient buffers"),
    Redirect(target="torch.cuda:Stream", make=lambda original: stubs.FinishedStream, why="communication streams"),
    Redirect(target="torch.cuda:Event", make=lambda original: stubs.FinishedEvent, why="events between streams"),
    Redirect(target="torch.cuda:stream", make=by(stubs.null_context), why="with torch.cuda.stream(...)"),
    Redirect(target="torch.cuda:set_stream", make=by(stubs.nothing), why="stream switch"),
    Redirect(target="torch.cuda:nvtx.range_push", make=by(stubs.nothing), why="profiler ranges"),
    Redirect(target="torch.cuda:nvtx.range_pop", make=by(stubs.nothing), why="profiler ranges"),
    *(
        Redirect(target=f"torch.cuda:{name}", make=by(stubs.zero), why="memory report")
        for name in (
            "memory_allocated",
            "max_memory_allocated",
            "memory_reserved",
            "max_memory_reserved",
            "device_memory_used",
        )
    ),
    Redirect(target="torch.cuda:memory_stats", make=by(stubs.memory_stats), why="memory report"),
    Redirect(target="torch.cuda:reset_peak_memory_stats", make=by(stubs.nothing), why="memory report"),
    Redirect(target="torch.cuda:get_device_properties", make=by(stubs.device_properties), why="architecture checks"),
    Redirect(target="torch.cuda:get_device_capability", make=by(stubs.device_capability), why="architecture checks"),
    Redirect(target="torch.cuda:get_rng_state", make=by(stubs.get_rng_state), why="RNG state in checkpoints"),
    Redirect(target="torch.cuda:set_rng_state", make=by(stubs.set_rng_state), why="RNG state in checkpoints"),
    Redirect(target="torch.cuda:random.get_rng_state", make=by(stubs.get_rng_state), why="RNG tracker"),
    Redirect(target="torch.cuda:random.set_rng_state", make=by(stubs.set_rng_state), why="RNG tracker"),
    Redirect(target="torch.cuda:manual_seed", make=by(stubs.manual_seed), why="RNG tracker"),
    Redirect(target="torch.cuda:default_generators", make=lambda original: stubs.CpuGenerators(), why="RNG tracker"),
    Redirect(target="torch.cuda:_lazy_init", make=by(stubs.nothing), why="imported by the RNG tracker"),
    Redirect(target="torch.cuda:_lazy_call", make=by(stubs.call_now), why="imported by the RNG tracker"),
    Redirect(target="torch.cuda:is_initialized", make=lambda original: lambda: True, why="asked before RNG calls"),
    Redirect(
        target="megatron.core.tensor_parallel.random:_set_cuda_rng_state",
        make=lambda original: lambda state, device=-1, graph_safe=False: stubs.set_rng_state(state),
        why="indexes CUDA generators when a rank's RNG state is set",
    ),
    Redirect(
        target="megatron.training.training:set_jit_fusion_options",
        make=by(stubs.nothing),
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


def skip_make(original: Callable[[], None]) -> Callable[[], None]:
    """Replace the compilation of Megatron's dataset helpers, which needs a Makefile that the wheel does not have."""

    def compile_helpers() -> None:
        try:
            importlib.import_module("megatron.core.datasets.helpers_cpp")
        except ImportError as error:
            raise RunError(
                f"megatron.core.datasets.helpers_cpp cannot be imported ({error}); megatron-core's wheel ships it for "
                f"CPython 3.12 on Linux x86-64, this is Python {sys.version.split()[0]}: use Python 3.12, or install "
                "megatron-core from its sdist with a C++ compiler present"
            ) from None

    return compile_helpers


def decay_everything(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let `--meap-decay-norms` put weight decay on norm gains too, as the official code does (protocol 1.5)."""

    @functools.wraps(original)
    def get_megatron_optimizer_config(args: Any) -> Any:
        config, overrides = original(args)
        if getattr(args, "meap_decay_norms", False):
            overrides = {key: value for key, value in overrides.items() if value.get("wd_mult") != 0.0}
        return config, overrides

    return get_megatron_optimizer_config


ALWAYS: tuple[Redirect, ...] = (
    Redirect(
        target="megatron.core.datasets.utils:compile_helpers",
        make=skip_make,
        why="initialize_megatron always runs make; the wheel has the compiled helpers but no Makefile",
    ),
    Redirect(
        target="megatron.training.training:get_megatron_optimizer_config",
        make=decay_everything,
        why="Megatron has no option for weight decay on one-dimensional parameters",
    ),
    Redirect(
        target="megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.state_dict",
        make=torch_adam.with_step,
        why="without Apex and TE a load fails, because the inner optimizer has no step yet",
    ),
    Redirect(
        target="megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.load_state_dict",
        make=torch_adam.with_own_steps,
        why="without Apex and TE all parameters share one step tensor, which is then incremented once for each of them",
    ),
    Redirect(
        target="megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.load_state_dict",
        make=adam_step.with_groups_of_either,
        why="the groups of torch's Adam and of TE's differ, so that a run could not continue with the other",
    ),
    *(
        Redirect(
            target=f"megatron.core.optimizer.optimizer:{name}.load_state_dict",
            make=adam_step.with_step_of_either,
            why="Adam's step is saved where torch, or TE, keeps it, so that a run could not continue with the other",
        )
        for name in ("FP32Optimizer", "Float16OptimizerWithFloat16Params")
    ),
    Redirect(
        target="megatron.core.optimizer.distrib_optimizer:DistributedOptimizer._set_main_param_and_optimizer_states",
        make=torch_adam.without_step,
        why="without Apex and TE a fully reshardable checkpoint is asked for a step that it keeps elsewhere",
    ),
    Redirect(
        target="megatron.core.transformer.attention:apply_rotary_pos_emb",
        make=rotary.rotary,
        why="speed without Transformer Engine: packed segments make the host wait twice per layer, and on a CPU every "
        "rotation passes six times over memory (docs/benchmarks/step.md)",
    ),
    Redirect(
        target="megatron.core.optimizer.optimizer:MegatronOptimizer._filter_and_reorder_param_groups",
        make=schedule.following,
        why="groups are found by their learning rate, so that it cannot change, with override_opt_param_scheduler neither",
    ),
    Redirect(
        target="megatron.core.optimizer.distrib_optimizer:DistributedOptimizer.load_state_dict",
        make=schedule.following_sharded,
        why="the same with the distributed optimizer",
    ),
    Redirect(
        target="megatron.training.training:consume_seqlen_stats_in_iteration",
        make=work.counted,
        why="nothing in the wheel counts the segments of packed rows, and Megatron would count their padding as work",
    ),
    Redirect(
        target="megatron.training.training:save_checkpoint",
        make=checkpoint_hooks.with_manifest,
        why="no hook runs when a checkpoint is complete; one is needed to write its checksums",
    ),
    Redirect(
        target="megatron.training.checkpointing:schedule_async_save",
        make=checkpoint_hooks.with_manifest_afterwards,
        why="the same for checkpoints that are written while training goes on",
    ),
    Redirect(
        target="megatron.core.dist_checkpointing.strategies.filesystem_async:get_write_results_queue",
        make=checkpoint_hooks.without_manager,
        why="each rank starts a process that imports torch to hand one list to itself; it outlives a rank that is killed",
    ),
)


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A module of ours that Megatron imports in the place of a package that is not installed."""

    name: str
    module: ModuleType
    why: str


MODULES: tuple[StandIn, ...] = (
    StandIn(
        name=weight_gradient.NAME,
        module=weight_gradient,
        why="without Apex gradient accumulation is not fused, in all of Transformer Engine's layers too, because Megatron's "
        "output layer refuses to be built; NVIDIA's recipes have it on wherever Transformer Engine is",
    ),
)


def missing(redirects: tuple[Redirect, ...]) -> list[str]:
    """Return the targets that do not exist in the installed versions."""
    absent = []
    for redirect in redirects:
        try:
            owner, name = redirect.locate()
            getattr(owner, name)
        except (ImportError, AttributeError):
            absent.append(redirect.target)
    return absent


_installed: list[tuple[Any, str, Any]] = []


def loads(name: str) -> bool:
    """Tell whether a module can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def install(*, device: str, engine: bool = False) -> None:
    """Put the redirects of `device` ("cpu" or "cuda") in place, once per process; `engine`: with Transformer Engine.

    Torch's names are replaced before Megatron is imported, because Megatron's modules import some of them by name.

    Raises:
        RunError: a target is missing, which means that an untested version of torch or Megatron is installed.
    """
    if _installed:
        return
    chosen = ALWAYS + CPU if device == "cpu" else ALWAYS
    if engine:
        sys.modules.update({one.name: one.module for one in MODULES if not loads(one.name)})
    # Torch collects its factories at the first `with torch.device(...)`. It must find the real ones, or such a block has
    # no effect: transformers then loads models whose rotary frequencies are uninitialised memory.
    with torch.device("meta"):
        torch.empty(0)
    for first, redirects in (("torch", chosen), ("megatron", chosen)):
        for redirect in redirects:
            if not redirect.target.startswith(first):
                continue
            try:
                owner, name = redirect.locate()
                original = getattr(owner, name)
            except (AttributeError, ModuleNotFoundError):
                raise RunError(
                    f"{redirect.target} does not exist in the installed version, but must be replaced ({redirect.why}); "
                    f"tested with megatron-core {', '.join(MEGATRON_VERSIONS)}: install with -c constraints.txt"
                ) from None
            setattr(owner, name, redirect.make(original))
            _installed.append((owner, name, original))
    torch_adam.fuse()
    if device == "cpu":
        tuning.keep_freed_memory()


def installed() -> list[str]:
    """Return the names that are replaced in this process."""
    return [f"{getattr(owner, '__name__', owner)}.{name}" for owner, name, _ in _installed]
