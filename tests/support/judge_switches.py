"""What Megatron itself says of settings that need each other: `python -m tests.support.judge_switches` prints JSON.

For every rule of `switches.NEEDED`: where Megatron stops with what the rule asks for, and where with its opposite.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import sys
import traceback
import types
from typing import Any

import yaml

from meap_megatron.launch import switches
from meap_megatron.launch.arguments import add_meap_arguments
from meap_megatron.launch.flags import read_flags
from meap_megatron.training import platform

platform.prepare("cpu")

from megatron.training import arguments  # noqa: E402
from megatron.training.argument_utils import core_transformer_config_from_args  # noqa: E402
from megatron.training.training import get_megatron_ddp_config, get_megatron_optimizer_config  # noqa: E402

STORE = "nvidia_resiliency_ext.checkpointing.local.ckpt_managers.local_manager".split(".")
for depth in range(len(STORE)):  # an option, of which Megatron asks only whether it is there
    module = types.ModuleType(".".join(STORE[: depth + 1]))
    vars(module)["LocalCheckpointManager"] = None
    sys.modules.setdefault(module.__name__, module)
FLAGS = read_flags()
BASE = (
    "num_layers=4 hidden_size=64 num_attention_heads=4 seq_length=64 max_position_embeddings=64 micro_batch_size=1 "
    "global_batch_size=8 train_iters=10 lr=0.1 mock_data=true tokenizer_type=NullTokenizer vocab_size=128 eval_interval=5 "
    "disable_bias_linear=true"
).split()
EXPERTS = "num_experts=8 expert_model_parallel_size=2 bf16=true"
OVERLAP = f"{EXPERTS} moe_token_dispatcher_type=alltoall"
DISTRIBUTED = "use_distributed_optimizer=true"
BESIDE = {
    ("fp8_recipe=custom", "fp8_quantizer_factory"): "fp8_format=hybrid bf16=true",
    ("fp4_recipe=custom", "fp4_quantizer_factory"): "fp4_format=e2m1 bf16=true",
    ("fp8_output_proj=true", "fp8_format"): "fp8_recipe=mxfp8 bf16=true",
    ("fp8_output_proj=true", "fp8_recipe=mxfp8"): "fp8_format=e4m3 bf16=true",
    ("recompute_modules=moe_act", "moe_grouped_gemm=true"): "recompute_granularity=selective num_experts=8",
    ("recompute_modules=mla_up_proj", "multi_latent_attention=true"): "recompute_granularity=selective",
    ("delay_wgrad_compute=true", "overlap_moe_expert_parallel_comm=true"): OVERLAP,
    ("ep_overlap_early_attn_memory_release=true", "overlap_moe_expert_parallel_comm=true"): OVERLAP,
    ("main_params_dtype=fp16", "use_precision_aware_optimizer=true"): DISTRIBUTED,
    ("main_grads_dtype=bf16", "use_precision_aware_optimizer=true"): DISTRIBUTED,
    ("exp_avg_dtype=fp16,bf16,fp8", "use_precision_aware_optimizer=true"): DISTRIBUTED,
    ("exp_avg_sq_dtype=fp16,bf16,fp8", "use_precision_aware_optimizer=true"): DISTRIBUTED,
    (
        "batch_invariant_mode=true",
        "flash_attention_version=3 or flash_attention_version=4",
    ): "attention_backend=flash",
    (
        "moe_shared_expert_overlap=true",
        "moe_token_dispatcher_type=alltoall or moe_token_dispatcher_type=flex",
    ): f"{EXPERTS} moe_shared_expert_intermediate_size=64",
    (
        "moe_router_enable_expert_bias=true",
        "moe_router_score_function=sigmoid or moe_router_score_function=sqrtsoftplus",
    ): EXPERTS,
    ("moe_router_group_topk", "moe_router_num_groups"): EXPERTS,
    (
        "overlap_moe_expert_parallel_comm=true",
        "moe_token_dispatcher_type=alltoall or moe_token_dispatcher_type=flex",
    ): EXPERTS,
    ("fp8_param_gather=true", DISTRIBUTED): "fp8_format=hybrid bf16=true",
    ("overlap_param_gather=true", DISTRIBUTED): "overlap_grad_reduce=true",
    ("overlap_param_gather=true", "overlap_grad_reduce=true"): DISTRIBUTED,
    ("overlap_param_gather_with_optimizer_step=true", "overlap_param_gather=true"): (
        f"{DISTRIBUTED} overlap_grad_reduce=true"
    ),
    ("optimizer_cpu_offload=true", "use_precision_aware_optimizer=true"): DISTRIBUTED,
    ("tp_comm_overlap=true", "sequence_parallel=true"): "tensor_model_parallel_size=2",
    ("fsdp_manual_registration=true", "use_megatron_fsdp=true"): "ckpt_format=fsdp_dtensor",
    ("moe_use_upcycling=true", "save"): "num_experts=8 save_interval=5",
    ("moe_use_upcycling=true", "num_experts"): "save=x save_interval=5",
    ("replication=true", "replication_jump"): "non_persistent_ckpt_type=local non_persistent_local_ckpt_dir=x",
    ("replication=true", "non_persistent_ckpt_type=local"): "replication_jump=2 non_persistent_local_ckpt_dir=x",
}
"""What a rule takes besides, so that Megatron comes to it."""
VALUES = {
    "fp8_format": "e4m3",
    "fp4_format": "e2m1",
    "hierarchical_context_parallel_sizes": "[1, 1]",
    "mrope_section": "[2, 3, 3]",
    "spec": "[local]",
    "cp_comm_type": "[a2a+p2p]",
}
"""Of settings that take no 2, or a list."""
STAGES = ("arguments.py", "transformer_config.py", "optimizer_config.py", "training.py")
"""Files in which Megatron checks, in its order."""


def flags_of(terms: list[str]) -> list[str]:
    """Return terms as words of the command line, the last of a name counts."""
    words = []
    for name, value in dict(term.partition("=")[::2] for term in terms).items():
        many = FLAGS[name].kind == "many" and not value.startswith("[")
        written = VALUES.get(name, "2") if not value else f"[{value}]" if many else value
        words += FLAGS[name].arguments(yaml.safe_load(written), origin="")
    return words


def opposite(term: str) -> list[str]:
    """Return the terms with which a term does not hold."""
    name, _, values = term.partition("=")
    return [f"{name}={'false' if values == 'true' else 'true'}"] if values in ("true", "false") else []


def stops(parser: argparse.ArgumentParser, terms: list[str]) -> tuple[int, int, str]:
    """Return how far Megatron comes: the number in `STAGES`, the line there, and what it says."""
    args: Any = copy.deepcopy(parser.parse_args(flags_of([*BASE, *terms])))
    args._is_global_batch_size_explicitly_specified = True
    args.rank, args.world_size = 0, 8
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1" if args.tensor_model_parallel_size > 1 else "8"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            arguments.validate_args(args)
            core_transformer_config_from_args(args)
            get_megatron_optimizer_config(args)
            get_megatron_ddp_config(args)
    except Exception as error:  # of any kind
        if "from TransformerEngine, but not found" in str(error):
            return len(STAGES), 0, ""  # the rule holds, and a package is missing
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            file = frame.filename.rpartition("/")[2]
            if file in STAGES:
                return STAGES.index(file), frame.lineno or 0, f"{file}:{frame.lineno}: {error}"
        raise
    return len(STAGES), 0, ""


def main() -> None:
    """Print rule -> [with what it needs, without] as one line, the last."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_meap_arguments(arguments.add_megatron_arguments(parser))
    found: dict[str, list[list[Any]]] = {}
    for term, needed, _ in switches.NEEDED:
        name, _, values = term.partition("=")
        beside = BESIDE.get((term, needed), "").split()
        for value in values.split(","):
            given = [*beside, f"{name}={value}" if value else name]
            for one in needed.split(" or "):
                pair = [stops(parser, [*given, one]), stops(parser, [*given, *opposite(one)])]
                found.setdefault(f"{term} needs {needed}", []).append(pair)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
