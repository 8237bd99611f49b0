"""Megatron's other switches: what each needs beside it, and which are refused and why; docs/switches.md is its page.

One line is one rule that Megatron 0.19.2 checks by an assert after half a minute, or that nothing checks. A term names a
setting that is given and not off, `name`, or its values, `name=value,value`.
"""

from collections.abc import Iterator

from meap_megatron.errors import UserError
from meap_megatron.launch import config_rules
from meap_megatron.launch.named_settings import Settings

NEVER_RUN = "it was never run with this trainer"
NOT_RL = "reinforcement learning is not part of this trainer"
NO_FSDP = "use_distributed_optimizer=true splits the optimizer over the same ranks"

REFUSED: tuple[tuple[str, str, str], ...] = (
    (
        "mtp_num_layers",
        "multi-token prediction is not wired into the MEAP step, which hands the model neither a loss mask nor, on the last "
        "pipeline stage, tokens",
        "leave it out",
    ),
    ("use_megatron_fsdp", f"resume, convert and generate do not read its checkpoints, and {NEVER_RUN}", NO_FSDP),
    ("use_torch_fsdp2", NEVER_RUN, NO_FSDP),
    (
        "optimizer=muon,dist_muon",
        "under tensor parallel it orthogonalises each rank's part of a matrix, so that one recipe would train another model "
        "on another layout",
        "use optimizer=adam",
    ),
    ("optimizer=lion,soap,adaptive_muon", NEVER_RUN, "use optimizer=adam"),
    ("perform_rl_step", NOT_RL, "leave it out"),
    ("rl_use_sequence_packing", NOT_RL, "leave it out"),
    ("ckpt_convert_format", "it converts a checkpoint instead of training", "use `meap convert`"),
    ("ckpt_format=torch_dcp,fsdp_dtensor", "resume, convert and generate read torch_dist", "leave it out"),
    ("position_embedding_type=relative", "it is of encoder-decoder models, in Transformer Engine", "use rope"),
    ("transformer_impl=inference_optimized", "its layers are for generation, not for training", "leave it out"),
    ("cross_entropy_fusion_impl=te", "Megatron has switched it off as unstable", "use native"),
    ("batch_size", "it is an old name", "use micro_batch_size"),
    ("warmup", "it is an old name", "use lr_warmup_fraction"),
    ("model_parallel_size", "it is an old name", "use tensor_model_parallel_size"),
    ("experimental_attention_variant", NEVER_RUN, "a gated delta net is the layer G of hybrid_layer_pattern"),
    ("qk_clip", NEVER_RUN, "leave it out"),
    ("tensor_parallel_num_weight_shards", NEVER_RUN, "leave it out"),
    ("expert_tensor_parallel_num_weight_shards", NEVER_RUN, "leave it out"),
    ("fine_grained_activation_offloading", f"it needs NVTE_CPU_OFFLOAD_V1, and {NEVER_RUN}", "leave it out"),
    ("fim_data", "fill-in-the-middle rearranges a sample before it is masked, which is not supported", "leave it out"),
    (
        "sft",
        "this is Megatron's own fine-tuning on conversations, which these datasets do not read",
        "make the data with `meap preprocess sft` and give --meap-sft",
    ),
    (
        "per_dataset_sequences_path",
        "the sizes of datasets are read from the datasets themselves, which are opened to check them",
        "leave it out; `meap cache` builds the sample index before a large job",
    ),
    ("object_storage_cache_path", "datasets are read from a file system that all nodes see", "copy or mount the data"),
    ("allow_ambiguous_pad_tokens", "padding is [MASK], an id that no document has", "leave it out"),
    ("hybrid_context_parallel", "its sampler sorts and splits samples by length", "leave it out"),
    ("logits_load_dir", "distillation replaces the loss that masked inputs are trained with", "leave it out"),
    ("logits_save_dir", "logits of masked inputs are not those of the text", "leave it out"),
)
"""Term, why it is refused, and what to do."""

NEEDED: tuple[tuple[str, str, str], ...] = (
    *config_rules.NEEDED,
    ("fp8_param_gather=true", "use_distributed_optimizer=true", "it gathers the shards of that optimizer"),
    ("fp4_param_gather=true", "fp4_format", "it gathers parameters of that format"),
    ("overlap_param_gather=true", "use_distributed_optimizer=true", "it gathers the shards of that optimizer"),
    ("overlap_param_gather=true", "overlap_grad_reduce=true", "Megatron overlaps both or none"),
    (
        "overlap_param_gather_with_optimizer_step=true",
        "use_distributed_optimizer=true",
        "it is part of that optimizer",
    ),
    ("overlap_param_gather_with_optimizer_step=true", "overlap_param_gather=true", "it extends that overlap"),
    ("use_precision_aware_optimizer=true", "use_distributed_optimizer=true", "it is part of that optimizer"),
    ("optimizer_cpu_offload=true", "use_precision_aware_optimizer=true", "it is part of that optimizer"),
    ("load_main_params_from_ckpt=true", "no_load_optim=true", "they would be overwritten by the optimizer's"),
    ("tp_comm_overlap=true", "sequence_parallel=true", "only then there is communication to hide"),
    ("fp32_residual_connection=true", "bf16=true or fp16=true", "in float32 it is that already"),
    ("fp16_lm_cross_entropy=true", "fp16=true", "it is of that precision"),
    (
        "multiple_validation_sets=true",
        "full_validation=true",
        "Megatron cannot count the samples of several sets otherwise",
    ),
    ("fsdp_manual_registration=true", "use_megatron_fsdp=true", "it is part of that"),
    ("attention_backend=local", "spec=local", "Megatron has it for its own layers only"),
    ("cp_comm_type=a2a+p2p", "hierarchical_context_parallel_sizes", "it communicates in two levels"),
    ("moe_use_upcycling=true", "save", "the result is saved there"),
    ("moe_use_upcycling=true", "num_experts", "it makes experts"),
    ("moe_grouped_gemm=true", "num_experts", "it is of experts"),
    ("moe_latent_size", "num_experts", "it is of experts"),
    ("mla_down_proj_fusion=true", "multi_latent_attention=true", "it fuses projections of that"),
    ("position_embedding_type=mrope", "mrope_section", "it divides a head's channels into these sections"),
    ("non_persistent_ckpt_type=local", "non_persistent_local_ckpt_dir", "it is written there"),
    ("replication=true", "replication_jump", "it says which ranks keep the copies"),
    ("replication=true", "non_persistent_ckpt_type=local", "only those are copied"),
    (
        "cuda_graph_impl=full_iteration",
        "no_check_for_nan_in_loss_and_grad=true",
        "a graph of the whole step cannot wait for the answer",
    ),
)
"""Term, the terms of which it needs one, and why."""

TWO_NAMES = "they are two names of one setting"
OF_LAYOUT = "the layout has the stages"
BY_STAGE = "with it, give num_virtual_stages_per_pipeline_rank"

FORBIDDEN: tuple[tuple[str, str, str], ...] = (
    *config_rules.FORBIDDEN,
    ("bf16", "fp16", "one precision at a time"),
    ("fp4_format", "fp8_format", "one format of 8 or 4 bits at a time"),
    ("global_batch_size", "step_batch_size_schedule", "the schedule is the batch size"),
    ("finetune", "override_ckpt_iteration", "fine-tuning starts at step 0"),
    ("save_params_interval", "overlap_param_gather", "parameters may be in flight when they are saved"),
    ("accumulate_allreduce_grads_in_fp32", "main_grads_dtype=bf16,fp16", "gradients are float32 then"),
    ("multi_latent_attention", "group_query_attention", "it shares keys and values in its own way"),
    ("cuda_graph_impl=full_iteration", "cuda_graph_modules", "the graph is of the whole step"),
    ("delay_wgrad_compute", "transformer_impl=local", "only Transformer Engine's layers can"),
    ("enable_cuda_graph", "external_cuda_graph", "one kind of graph at a time"),
    ("enable_cuda_graph", "cuda_graph_impl=local,transformer_engine", TWO_NAMES),
    ("external_cuda_graph", "cuda_graph_impl=local,transformer_engine", TWO_NAMES),
    ("hybrid_override_pattern", "hybrid_layer_pattern", TWO_NAMES),
    ("num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank", "each decides the other"),
    ("num_layers_per_virtual_pipeline_stage", "pipeline_model_parallel_layout", OF_LAYOUT),
    ("num_virtual_stages_per_pipeline_rank", "pipeline_model_parallel_layout", OF_LAYOUT),
    ("num_layers_per_virtual_pipeline_stage", "decoder_first_pipeline_num_layers", BY_STAGE),
    ("num_layers_per_virtual_pipeline_stage", "decoder_last_pipeline_num_layers", BY_STAGE),
)
"""Two terms that exclude each other, and why."""


def findings(settings: Settings) -> Iterator[UserError]:
    """Yield switches that are refused, lack what they need, or exclude each other: key, value, rule and remedy."""
    for term, why, remedy in REFUSED:
        if holds(settings, term):
            yield UserError(f"{settings.quoted(name_of(term))} is refused: {why}", fix=remedy)
    for term, needed, why in NEEDED:
        if holds(settings, term) and not any(holds(settings, one) for one in needed.split(" or ")):
            name = name_of(term)
            yield UserError(f"{settings.quoted(name)} needs {needed}: {why}", fix=f"set {needed}, or leave {name} out")
    for term, other, why in FORBIDDEN:
        if holds(settings, term) and holds(settings, other):
            both = f"{settings.quoted(name_of(term))} and {settings.named(name_of(other))}"
            yield UserError(f"{both} are both given: {why}", fix="leave one out")
    yield from config_rules.findings(settings)


def name_of(term: str) -> str:
    """Return the setting of a term."""
    return term.partition("=")[0]


def holds(settings: Settings, term: str) -> bool:
    """Tell whether a term holds."""
    name, _, values = term.partition("=")
    value = settings.get(name)
    if not values:
        return value not in (None, False, 0)
    found = [
        str(one).lower() if isinstance(one, bool) else str(one)
        for one in (value if isinstance(value, list) else [value])
    ]
    return any(one in values.split(",") for one in found)
