"""Gaps of the megatron-core wheel and of its options, closed on every device, and packages that Megatron looks for."""

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

from meap_megatron.errors import RunError
from meap_megatron.training import checkpoint_hooks, work
from meap_megatron.training.patches import adam_step, rotary, schedule, torch_adam, weight_gradient
from meap_megatron.training.patches.entries import Redirect, StandIn


def skip_make(original: Callable[[], None]) -> Callable[[], None]:
    """Replace the compilation of Megatron's dataset helpers, which needs a Makefile that the wheel does not have."""

    def compile_helpers() -> None:
        try:
            importlib.import_module("megatron.core.datasets.helpers_cpp")
        except ImportError as error:
            raise RunError(
                f"megatron.core.datasets.helpers_cpp cannot be imported ({error}); megatron-core's wheel ships it for "
                f"CPython 3.12 on Linux x86-64, this is Python {sys.version.split()[0]}",
                fix="use Python 3.12, or install megatron-core from its sdist with a C++ compiler present",
            ) from None

    return compile_helpers


def read_once(original: Callable[[Any, type], dict[str, str]]) -> Callable[[Any, type], dict[str, str]]:
    """Keep the texts of help that Megatron's parser reads from the source of its configurations."""
    known: dict[type, dict[str, str]] = {}

    @functools.wraps(original)
    def _get_field_docstrings(self: Any, src_cfg_class: type) -> dict[str, str]:
        if src_cfg_class not in known:
            known[src_cfg_class] = original(self, src_cfg_class)
        return dict(known[src_cfg_class])

    return _get_field_docstrings


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
        target="megatron.training.argument_utils:ArgumentGroupFactory._get_field_docstrings",
        make=read_once,
        why="every rank makes the parser twice, and each time source is parsed for texts of help: a quarter of its start",
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
        why="the same for checkpoints that are written while training continues",
    ),
    Redirect(
        target="megatron.core.dist_checkpointing.strategies.filesystem_async:get_write_results_queue",
        make=checkpoint_hooks.without_manager,
        why="each rank starts a process that imports torch to hand one list to itself; it outlives a rank that is killed",
    ),
)


MODULES: tuple[StandIn, ...] = (
    StandIn(
        name=weight_gradient.NAME,
        module=weight_gradient,
        why="without Apex gradient accumulation is not fused, in all of Transformer Engine's layers too, because Megatron's "
        "output layer refuses to be built; NVIDIA's recipes have it on wherever Transformer Engine is",
    ),
)
