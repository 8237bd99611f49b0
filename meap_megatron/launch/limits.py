"""The range of every number that a recipe may set: one table, one wording.

Megatron checks few of them, and those by bare asserts or by an error of torch minutes later. Values come from its validation
functions, its schedule, its samplers and torch's optimizers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a number must be."""

    rule: str
    """Completes "KEY=VALUE must be ..."."""
    holds: Callable[[float], bool]


AT_LEAST_0 = Limit(rule="at least 0", holds=lambda value: value >= 0)
AT_LEAST_1 = Limit(rule="at least 1", holds=lambda value: value >= 1)
ABOVE_0 = Limit(rule="above 0", holds=lambda value: value > 0)
SHARE = Limit(rule="in [0, 1)", holds=lambda value: 0 <= value < 1)
SHARE_ABOVE_0 = Limit(rule="above 0 and at most 1", holds=lambda value: 0 < value <= 1)
SEED = Limit(rule="from 1 to 2^32 - 1", holds=lambda value: 1 <= value < 2**32)
MASK_SEED = Limit(rule="from 0 to 2^64 - 1", holds=lambda value: 0 <= value < 2**64)

NAMES: dict[Limit, str] = {
    AT_LEAST_1: (
        "train_iters train_samples micro_batch_size global_batch_size eval_micro_batch_size eval_global_batch_size "
        "seq_length max_position_embeddings num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups "
        "kv_channels vocab_size padded_vocab_size make_vocab_size_divisible_by num_experts save_interval eval_interval "
        "log_interval tensorboard_log_interval exit_interval exit_duration_in_mins lr_decay_iters lr_decay_samples "
        "tensor_model_parallel_size pipeline_model_parallel_size context_parallel_size expert_model_parallel_size "
        "num_layers_per_virtual_pipeline_stage num_virtual_stages_per_pipeline_rank recompute_num_layers "
        "mamba_state_dim mamba_head_dim mamba_num_groups mamba_num_heads linear_key_head_dim linear_value_head_dim "
        "linear_num_key_heads linear_num_value_heads linear_conv_kernel_dim "
        "num_dataset_builder_threads moe_latent_size distributed_timeout_minutes meap_span_length iterations_to_skip"
    ),
    AT_LEAST_0: (
        "eval_iters num_workers nproc lr_warmup_iters lr_warmup_samples lr_warmup_init min_lr weight_decay "
        "start_weight_decay end_weight_decay clip_grad manual_gc_interval mid_level_dataset_surplus meap_mask_token_id "
        "lr_wsd_decay_iters lr_wsd_decay_samples meap_sft_min_answer meap_skip_first meap_min_document_tokens"
    ),
    ABOVE_0: "lr adam_eps norm_epsilon init_method_std rotary_base rope_scaling_factor meap_epochs meap_peak_tflops",
    SHARE: "hidden_dropout attention_dropout adam_beta1 adam_beta2 lr_warmup_fraction sgd_momentum meap_clean_fraction",
    SHARE_ABOVE_0: "rotary_percent",
    SEED: "seed",
    MASK_SEED: "meap_mask_seed",
}
LIMITS: dict[str, Limit] = {name: limit for limit, names in NAMES.items() for name in names.split()}
"""Setting -> what its value must be where it is given."""


def broken(name: str, value: Any) -> str | None:
    """Return "NAME=VALUE must be ..." for a number out of its range, else None; also for what is not a number.

    Args:
        value: as written: YAML reads 1e3 as text.
    """
    limit = LIMITS.get(name)
    if limit is None or value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if math.isfinite(number) and not limit.holds(number):
        return f"{name}={value} must be {limit.rule}"
    return None
