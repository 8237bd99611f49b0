"""Names of other modules that ours assign to on their own, outside of `redirect.install`, and why each does."""

from meap_megatron.training.patches.entries import Assignment

ASSIGNMENTS: tuple[Assignment, ...] = (
    Assignment(
        target="megatron.training.global_vars:_GLOBAL_TENSORBOARD_WRITER",
        where="training.metrics_writer",
        why="the one place where Megatron hands out the values of a step; it has no setter",
    ),
    Assignment(
        target="megatron.training.global_vars:_GLOBAL_WANDB_WRITER",
        where="training.metrics_writer",
        why="an error of the W&B server must not end a run",
    ),
    Assignment(
        target="megatron.core.dist_checkpointing.strategies.filesystem_async:_results_queue",
        where="training.checkpoint_hooks",
        why="a queue of this process where Megatron would start a server process per rank",
    ),
    Assignment(
        target="torch.utils.data._utils.collate:default_collate_fn_map",
        where="datasets.assembly",
        why="samples that are collated already pass through torch's DataLoader; torch documents the table as extensible",
    ),
    Assignment(
        target="torch:compile",
        where="launch.megatron_import",
        why="on a CPU, while Megatron is imported: its decorators import torch's compiler, and nothing is compiled",
    ),
    Assignment(
        target="sys:modules[triton]",
        where="launch.megatron_import",
        why="while Megatron is imported: it imports triton unconditionally, which CPU builds of torch do not bring",
    ),
    Assignment(
        target="sys:modules[transformer_engine]",
        where="launch.flags",
        why="in the process that reads Megatron's flags, which needs no engine",
    ),
    Assignment(
        target="sys:modules[transformer_engine]",
        where="training.platform",
        why="hidden on a CPU, where Megatron's local layers would pick its CUDA operations, and where it cannot be loaded",
    ),
    Assignment(
        target="sys:modules[fused_weight_gradient_mlp_cuda]",
        where="training.patches.redirect",
        why="the stand-ins of `everywhere.MODULES`",
    ),
    Assignment(
        target="meap_megatron.training.batch:mpu",
        where="rehearsal.fakes",
        why="in a rehearsal, every rank reads its samples itself instead of waiting for a broadcast",
    ),
    Assignment(
        target="meap_megatron.training.cpu.stubs:CPU",
        where="rehearsal.fakes",
        why="in a rehearsal, what Megatron makes on the GPU is made on the meta device",
    ),
)
"""Beside these, no module of the package assigns to a name of another module."""
