"""One rank with small widths, through real iterations of Megatron's own trainer; layout and layers are the job's."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

from meap_megatron.layer_pattern import DELTA_NET
from meap_megatron.rehearsal.fakes import ALONE, ENGINE_ONLY, own_samples
from meap_megatron.rehearsal.job import WRITERS, RehearsedJob

HEAD_SIZE = 8
"""Channels of an attention head."""
ROWS_PER_RANK = 32
"""Rows of the embedding on each tensor-parallel rank."""
LEAST_SEQUENCE = 32

LEFT_OUT = (
    "data_path train_data_path valid_data_path test_data_path data_args_path per_split_data_args_path data_cache_path "
    "save save_interval load pretrained_checkpoint ckpt_step finetune use_checkpoint_args exit_on_missing_checkpoint "
    "train_samples meap_epochs lr_decay_iters lr_decay_samples lr_warmup_iters lr_warmup_samples lr_wsd_decay_iters "
    "exit_interval exit_duration_in_mins tokenizer_model vocab_file merge_file nproc meap_keep_checkpoints "
    "fp8_format fp8_recipe fp8_amax_history_len fp8_amax_compute_algo te_precision_config_file transformer_impl "
    "cross_entropy_loss_fusion cross_entropy_fusion_impl "
    "full_validation multiple_validation_sets phase_transition_iterations meap_mask_token_id"
).split()
"""Settings without meaning for a few steps on made-up data."""


def changes(job: RehearsedJob, steps: int) -> dict[str, Any]:
    """Return the settings in which the small job differs from the true one (None: left out).

    What a layout splits stays divisible as it was: heads, groups, layers, stages and micro-batches are the job's own.
    """
    settings, layout = job.settings, job.layout
    heads = settings.whole("num_attention_heads", 1) or 1
    unit = layout.tensor * (2 * layout.context if layout.context > 1 else 1)
    length = -(-LEAST_SEQUENCE // unit) * unit
    hidden = heads * HEAD_SIZE if heads * HEAD_SIZE <= 512 else 16 * layout.tensor
    small: dict[str, Any] = dict.fromkeys([*WRITERS, *LEFT_OUT, *ENGINE_ONLY])
    # Fine-tuning data cannot be made up; text with its segments takes the same way through the trainer.
    small |= {name: None for name in settings.table if name.startswith("meap_sft_")}
    if job.is_sft:
        small |= {"dataloader_inter_document_masking": True, "calculate_per_token_loss": True}
    if (pattern := settings.get("hybrid_layer_pattern")) is not None:
        shares = layout.tensor * layout.context
        if "M" in pattern:
            small |= {name: HEAD_SIZE for name in ("mamba_state_dim", "mamba_head_dim")}
            small |= {name: shares for name in ("mamba_num_heads", "mamba_num_groups")}
        if "G" in pattern:
            small |= {name: shares if "num" in name else HEAD_SIZE for name in DELTA_NET[:-1]}
    return small | {
        "device": "cpu",
        "hidden_size": hidden,
        "kv_channels": HEAD_SIZE,
        "ffn_hidden_size": 16 * layout.tensor,
        "seq_length": length,
        "max_position_embeddings": length,
        "mock_data": True,
        "tokenizer_type": "NullTokenizer",
        "vocab_size": ROWS_PER_RANK * layout.tensor - 1,
        "padded_vocab_size": ROWS_PER_RANK * layout.tensor,
        "split": "98,2,0",
        "num_workers": 0,
        "train_iters": steps,
        "eval_iters": 0,
        "eval_interval": 1_000_000,
        "log_interval": 1,
    }


def rehearse(job: RehearsedJob, steps: int, *, screen: TextIO) -> dict[str, Any]:
    """Be the rank that the environment names, in a process of its own, for a few iterations.

    Args:
        steps: iterations, at least 1.
        screen: takes the progress lines of the last rank.

    Returns:
        rank, steps (iterations of which this rank saw micro-batches), micro_batches (all of them), seconds

    Raises:
        UserError: Megatron refuses the layout.
        RunError: an iteration was lost.
    """
    from meap_megatron.training.pretrain import run

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="meap-rehearsal-") as folder:
        own = ["--meap-device=cpu", f"--meap-trace={folder}", *ALONE]
        with own_samples():
            run([*job.command_line(changes(job, steps)), *own], screen)
        trace = next(Path(folder).glob("rank-*.jsonl")).read_text(encoding="utf-8")
    seen = [line["step"] for line in map(json.loads, trace.splitlines()) if line["training"]]
    return {
        "rank": int(os.environ["RANK"]),
        "steps": len(set(seen)),
        "micro_batches": len(seen),
        "seconds": round(time.perf_counter() - began, 2),
    }
