"""Megatron's other switches: what each needs beside it, and which are refused and why; docs/switches.md is its page.

One line is one rule that Megatron 0.19.2 checks by an assert after half a minute, or that nothing checks.
"""

from collections.abc import Iterator
from typing import Any

from meap_megatron.launch.named_settings import Settings

REFUSED: tuple[tuple[str, tuple[Any, ...], str, str], ...] = (
    (
        "mtp_num_layers",
        (),
        "multi-token prediction is not wired into the MEAP step, which hands the model neither a loss mask nor, on the last "
        "pipeline stage, tokens",
        "leave it out",
    ),
    (
        "use_megatron_fsdp",
        (),
        "its checkpoints (fsdp_dtensor) are not those that resume, convert and generate read, and it was never run with "
        "this trainer",
        "use_distributed_optimizer=true splits the optimizer over the same ranks",
    ),
    (
        "use_torch_fsdp2",
        (),
        "it was never run with this trainer",
        "use_distributed_optimizer=true splits the optimizer over the same ranks",
    ),
    (
        "optimizer",
        ("muon", "dist_muon"),
        "under tensor parallel it orthogonalises each rank's part of a matrix, so that one recipe would train another model "
        "on another layout",
        "use optimizer=adam",
    ),
    ("optimizer", ("lion", "soap", "adaptive_muon"), "it was never run with this trainer", "use optimizer=adam"),
    ("perform_rl_step", (), "reinforcement learning is not part of this trainer", "leave it out"),
    ("rl_use_sequence_packing", (), "reinforcement learning is not part of this trainer", "leave it out"),
    ("ckpt_convert_format", (), "it converts a checkpoint instead of training", "use `meap convert`"),
    ("ckpt_format", ("torch_dcp", "fsdp_dtensor"), "resume, convert and generate read torch_dist", "leave it out"),
    ("position_embedding_type", ("relative",), "it is of encoder-decoder models, in Transformer Engine", "use rope"),
    ("transformer_impl", ("inference_optimized",), "its layers are for generation, not for training", "leave it out"),
    ("cross_entropy_fusion_impl", ("te",), "Megatron has switched it off as unstable", "use native"),
    ("batch_size", (), "it is an old name", "use micro_batch_size"),
    ("warmup", (), "it is an old name", "use lr_warmup_fraction"),
    ("model_parallel_size", (), "it is an old name", "use tensor_model_parallel_size"),
    ("qk_clip", (), "it was never run with this trainer", "leave it out"),
    ("tensor_parallel_num_weight_shards", (), "it was never run with this trainer", "leave it out"),
    ("expert_tensor_parallel_num_weight_shards", (), "it was never run with this trainer", "leave it out"),
    ("fine_grained_activation_offloading", (), "it needs NVTE_CPU_OFFLOAD_V1 and was never run here", "leave it out"),
)
"""Setting, its refused values (none: every one that is given), why, and what to do."""

ON: tuple[Any, ...] = (True,)
NEEDED: tuple[tuple[str, tuple[Any, ...], str, tuple[Any, ...], str], ...] = (
    ("fp8_param_gather", ON, "use_distributed_optimizer", ON, "it gathers the shards of that optimizer"),
    ("fp4_param_gather", ON, "fp4_format", (), "it gathers parameters of that format"),
    ("overlap_param_gather_with_optimizer_step", ON, "use_distributed_optimizer", ON, "it is part of that optimizer"),
    ("overlap_param_gather_with_optimizer_step", ON, "overlap_param_gather", ON, "it extends that overlap"),
    ("fsdp_manual_registration", ON, "use_megatron_fsdp", ON, "it is part of that"),
    ("attention_backend", ("local",), "spec", ("local",), "Megatron has it for its own layers only"),
    ("cp_comm_type", ("a2a+p2p",), "hierarchical_context_parallel_sizes", (), "it communicates in two levels"),
    ("moe_use_upcycling", ON, "save", (), "the result is saved there"),
    ("moe_use_upcycling", ON, "num_experts", (), "it makes experts"),
    ("moe_grouped_gemm", ON, "num_experts", (), "it is of experts"),
    ("moe_latent_size", (), "num_experts", (), "it is of experts"),
    ("mla_down_proj_fusion", ON, "multi_latent_attention", ON, "it fuses projections of that"),
    ("position_embedding_type", ("mrope",), "mrope_section", (), "it divides a head's channels into these sections"),
    ("non_persistent_ckpt_type", ("local",), "non_persistent_local_ckpt_dir", (), "it is written there"),
    ("replication", ON, "replication_jump", (), "it says which ranks keep the copies"),
    ("replication", ON, "non_persistent_ckpt_type", ("local",), "only those are copied"),
    (
        "cuda_graph_impl",
        ("full_iteration",),
        "check_for_nan_in_loss_and_grad",
        (False,),
        "a graph of the whole step cannot wait for the answer",
    ),
)
"""Setting, the values that need something (none: every one), what it needs, with which values (none: any), and why."""

FORBIDDEN: tuple[tuple[str, tuple[Any, ...], str, tuple[Any, ...], str], ...] = (
    ("fp4_format", (), "fp8_format", (), "one format of 8 or 4 bits at a time"),
    ("accumulate_allreduce_grads_in_fp32", ON, "main_grads_dtype", ("bf16", "fp16"), "gradients are float32 then"),
    ("multi_latent_attention", ON, "group_query_attention", ON, "it shares keys and values in its own way"),
    ("cuda_graph_impl", ("full_iteration",), "cuda_graph_modules", (), "the graph is of the whole step"),
    ("delay_wgrad_compute", ON, "transformer_impl", ("local",), "only Transformer Engine's layers can"),
    ("enable_cuda_graph", ON, "external_cuda_graph", ON, "one kind of graph at a time"),
    ("enable_cuda_graph", ON, "cuda_graph_impl", ("local", "transformer_engine"), "they are two names of one setting"),
    (
        "external_cuda_graph",
        ON,
        "cuda_graph_impl",
        ("local", "transformer_engine"),
        "they are two names of one setting",
    ),
    ("hybrid_override_pattern", (), "hybrid_layer_pattern", (), "they are two names of one setting"),
    (
        "num_layers_per_virtual_pipeline_stage",
        (),
        "num_virtual_stages_per_pipeline_rank",
        (),
        "each decides the other",
    ),
    ("num_layers_per_virtual_pipeline_stage", (), "pipeline_model_parallel_layout", (), "the layout has the stages"),
    ("num_virtual_stages_per_pipeline_rank", (), "pipeline_model_parallel_layout", (), "the layout has the stages"),
    (
        "num_layers_per_virtual_pipeline_stage",
        (),
        "decoder_first_pipeline_num_layers",
        (),
        "with it, give num_virtual_stages_per_pipeline_rank",
    ),
    (
        "num_layers_per_virtual_pipeline_stage",
        (),
        "decoder_last_pipeline_num_layers",
        (),
        "with it, give num_virtual_stages_per_pipeline_rank",
    ),
)
"""Two settings that exclude each other, each with its values (none: every one), and why."""


def findings(settings: Settings) -> Iterator[str]:
    """Yield switches that are refused, lack what they need, or exclude each other: key, value, rule and remedy."""
    for name, values, why, remedy in REFUSED:
        if is_one_of(settings, name, values):
            yield f"{shown(settings, name)} is refused: {why}; {remedy}"
    for name, values, needed, with_values, why in NEEDED:
        if is_one_of(settings, name, values) and not is_one_of(settings, needed, with_values):
            wanted = f"{needed}={written(with_values[0])}" if with_values else needed
            yield f"{shown(settings, name)} needs {wanted}: {why}; set it, or leave {name} out"
    for name, values, other, other_values, why in FORBIDDEN:
        if is_one_of(settings, name, values) and is_one_of(settings, other, other_values):
            yield f"{shown(settings, name)} excludes {other}={written(settings.get(other))}: {why}; leave one out"


def is_one_of(settings: Settings, name: str, values: tuple[Any, ...]) -> bool:
    """Tell whether a setting is given and has one of these values; without values, whether it is given and not off."""
    value = settings.get(name)
    if not values:
        return value not in (None, False, 0)
    return any(one in values for one in (value if isinstance(value, list) else [value]))


def shown(settings: Settings, name: str) -> str:
    """Return "FILE:LINE: NAME=VALUE"."""
    return f"{settings.where(name)}{name}={written(settings.get(name))}"


def written(value: Any) -> str:
    """Return a value as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
