"""What Megatron 0.19.2's configurations ask of each other, in their `__post_init__`, after its import: for `switches`.

Left to Megatron, whose own sentence is then shown: what depends on the versions of torch and Transformer Engine, what
follows from a setting that `switches` refuses, and the finer points of experts (`moe_*`) and CUDA graphs.
"""

from collections.abc import Iterator

from meap_megatron.errors import UserError
from meap_megatron.launch.hybrid import FIRST_AND_LAST, TABLES, UNEVEN
from meap_megatron.launch.named_settings import Settings

DISPATCHERS = "moe_token_dispatcher_type=alltoall or moe_token_dispatcher_type=flex"

NEEDED: tuple[tuple[str, str, str], ...] = (
    ("fp8_recipe=custom", "fp8_quantizer_factory", "its kernels are made there"),
    ("fp4_recipe=custom", "fp4_quantizer_factory", "its kernels are made there"),
    ("fp8_output_proj=true", "fp8_format", "it is a product in that format"),
    ("fp8_output_proj=true", "fp8_recipe=mxfp8", "only that recipe has it"),
    ("fused_residual_rmsnorm=true", "normalization=RMSNorm", "it fuses that norm"),
    ("recompute_modules=moe_act", "moe_grouped_gemm=true", "it computes activations of grouped experts again"),
    ("recompute_modules=mla_up_proj", "multi_latent_attention=true", "it computes a projection of that again"),
    ("delay_wgrad_compute=true", "overlap_moe_expert_parallel_comm=true", "it delays what that hides"),
    (
        "ep_overlap_early_attn_memory_release=true",
        "overlap_moe_expert_parallel_comm=true",
        "it is part of that overlap",
    ),
    *(
        (term, "use_precision_aware_optimizer=true", "only that optimizer keeps other types than float32")
        for term in (
            *("main_params_dtype=fp16", "main_grads_dtype=bf16"),
            *("exp_avg_dtype=fp16,bf16,fp8", "exp_avg_sq_dtype=fp16,bf16,fp8"),
        )
    ),
    ("batch_invariant_mode=true", "attention_backend=flash", "other kernels add in an order of their own"),
    (
        "batch_invariant_mode=true",
        "flash_attention_version=3 or flash_attention_version=4",
        "older ones add in an order of their own",
    ),
    ("moe_ffn_hidden_size", "num_experts", "it is of experts"),
    ("moe_single_grouped_weight=true", "moe_grouped_gemm=true", "it is the weight of grouped experts"),
    ("moe_single_grouped_bias=true", "moe_grouped_gemm=true", "it is the bias of grouped experts"),
    ("moe_enable_deepep=true", "moe_token_dispatcher_type=flex", "it is a backend of that dispatcher"),
    ("moe_flex_dispatcher_backend=ncclep", "moe_token_dispatcher_type=flex", "it is a backend of that"),
    ("moe_shared_expert_overlap=true", DISPATCHERS, "only those overlap"),
    ("moe_pad_expert_input_to_capacity=true", "moe_expert_capacity_factor", "it pads to that capacity"),
    (
        "moe_router_enable_expert_bias=true",
        "moe_router_score_function=sigmoid or moe_router_score_function=sqrtsoftplus",
        "it biases those",
    ),
    ("moe_router_group_topk", "moe_router_num_groups", "it chooses among these groups"),
    ("overlap_moe_expert_parallel_comm=true", DISPATCHERS, "only those overlap"),
)
"""As `switches.NEEDED`."""

FORBIDDEN: tuple[tuple[str, str, str], ...] = (
    ("swiglu", "squared_relu", "one activation at a time"),
    ("swiglu", "quick_geglu", "one activation at a time"),
    *(("pipeline_model_parallel_layout", name, "the layout has the layers of every stage") for name in UNEVEN),
    *((table, end, "both cut the layers") for table in TABLES for end in FIRST_AND_LAST),
    ("distribute_saved_activations", "sequence_parallel", "that distributes them already"),
    ("cpu_offloading_num_layers", "recompute_granularity", "activations are kept or computed again"),
    ("recompute_modules=moe_act,layernorm", "fp8_recipe=delayed", "delayed scaling cannot compute them again"),
    ("recompute_modules=shared_experts", "moe_shared_expert_overlap", "one or the other"),
    ("moe_layer_recompute", "recompute_granularity=full", "that computes all layers again"),
    ("recompute_granularity=full", "cuda_graph_impl=local,transformer_engine", "graphs are of single layers"),
    ("multi_latent_attention", "rotary_interleaved", "it rotates in its own way"),
    ("multi_latent_attention", "attention_output_gate", "it has no such gate"),
    ("reuse_grad_buf_for_mxfp8_param_ag", "overlap_param_gather_with_optimizer_step", "the buffer is in use"),
    ("use_precision_aware_optimizer", "optimizer=sgd", "it is part of Adam"),
    ("ddp_num_buckets", "ddp_bucket_size", "each decides the other"),
    ("moe_expert_capacity_factor", "moe_router_load_balancing_type=sinkhorn,quantile_balancing", "no capacity"),
    ("overlap_moe_expert_parallel_comm", "recompute_granularity=full", "it hides behind single layers"),
    ("overlap_moe_expert_parallel_comm", "moe_shared_expert_overlap", "one or the other"),
)
"""As `switches.FORBIDDEN`."""

MODULES = ("core_attn", "layernorm", "mlp", "moe", "moe_act", "mla_up_proj", "shared_experts")
"""What selective recomputation can take, for layers that can be trained here."""


def findings(settings: Settings) -> Iterator[UserError]:
    """Yield what no table says."""
    modules = settings.get("recompute_modules")
    for module in modules if isinstance(modules, list) else [modules] if modules else []:
        if module not in MODULES:
            yield UserError(f"{settings.quoted('recompute_modules')} contains {module}; it takes {', '.join(MODULES)}")
    biased = not settings.on("disable_bias_linear") and not settings.on("no_bias_gelu_fusion")
    if settings.on("squared_relu") and biased:
        yield UserError(
            f"{settings.quoted('squared_relu')} has no kernel that adds a bias, which Megatron fuses by default",
            fix="set disable_bias_linear=true, or no_bias_gelu_fusion=true",
        )
    if (settings.whole("pipeline_model_parallel_size") or 1) > 1 and settings.has("cpu_offloading_num_layers"):
        yield UserError(
            f"{settings.quoted('cpu_offloading_num_layers')} works on one pipeline stage only", fix="leave it out"
        )
    for name, size in (
        ("defer_embedding_wgrad_compute", "pipeline_model_parallel_size"),
        ("overlap_moe_expert_parallel_comm", "expert_model_parallel_size"),
    ):
        if settings.on(name) and (settings.whole(size) or 1) == 1:
            yield UserError(f"{settings.quoted(name)} needs {size} above 1", fix="leave it out")
    softmax = settings.get("moe_router_score_function") in (None, "softmax")
    if softmax and settings.whole("moe_router_topk") == 1 and not settings.on("moe_router_pre_softmax"):
        yield UserError(
            f"{settings.quoted('moe_router_topk')}: the softmax over one chosen expert is always 1, so the router would not "
            "learn",
            fix="set moe_router_pre_softmax=true",
        )
