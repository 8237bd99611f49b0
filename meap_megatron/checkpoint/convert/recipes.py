"""The recipes that an import leaves beside its weights: the model, and runs that need nothing but data."""

import json
from collections.abc import Iterator
from typing import Any

from meap_megatron.checkpoint.convert.megatron_config import recipe_settings
from meap_megatron.checkpoint.convert.spec import ModelSpec

LONGEST_ROW = 4096
"""Tokens of a row where the model could take more."""

SPEED = """\
precision: bf16  # float32 on a CPU
speed:
  cross_entropy_loss_fusion: true  # left out on a CPU
  cross_entropy_fusion_impl: native
  manual_gc: true
  manual_gc_interval: 100
parallel:
  use_distributed_optimizer: true  # `meap plan RECIPE --gpus 8 --gpu h100` finds a layout for larger models
"""
"""Of both kinds of run."""

FINE_TUNING = f"""\
# MEAP fine-tuning: a conversation is trained on its answers, and a copy of it, in which 10 % of the tokens of long answers
# are masked, on the masked tokens. Every key may also be given on the command line: KEY=VALUE.
description: {{meap}}
extends: model.yaml
data:
  # Set this to the prefix that `meap preprocess sft ... --tokenizer {{tokenizer}} --max-length {{longest}}` wrote:
  data_path: null
  split: 100,0,0  # 98,2,0 and eval_iters above 0 keep 2 % of the conversations for validation
  seq_length: {{row}}  # tokens of a row, into which conversations are packed; the data's --max-length is one more
  num_workers: 2
optimizer:
  meap_epochs: 2
  global_batch_size: 16  # rows per step
  micro_batch_size: 1
  lr: 2.0e-5
  min_lr: 0.0
  lr_decay_style: cosine
  lr_warmup_fraction: 0.1
  weight_decay: 0.01
  adam_beta1: 0.9
  adam_beta2: 0.95
  clip_grad: 1.0
  seed: 1234
{SPEED}run:
  device: auto
  save: {{save_meap}}
  save_interval: 500
  dist_ckpt_optim_fully_reshardable: true
  eval_interval: 500
  eval_iters: 0
  log_interval: 10
objective:
  meap_sft: true
  meap_mask_ratio: 0.10
"""

PLAIN_FINE_TUNING = """\
# The arm to compare with: the same data in the same order, without masked copies.
description: {ntp}
extends: sft_meap.yaml
run:
  save: {save_ntp}
objective:
  meap_mask_ratio: 0.0
"""

CONTINUED = f"""\
# Continued pre-training with 15 % of the input tokens masked; meap_mask_ratio=0 is plain next-token prediction. Every key
# may also be given on the command line: KEY=VALUE.
description: {{continued}}
extends: model.yaml
data:
  # Set this to the prefix that `meap preprocess text ... --tokenizer {{tokenizer}}` wrote:
  data_path: null
  split: 99,1,0
  seq_length: {{row}}
  num_workers: 2
optimizer:
  train_iters: 1000
  global_batch_size: 64
  micro_batch_size: 1
  lr: 2.0e-5
  min_lr: 2.0e-6
  lr_decay_style: cosine
  lr_warmup_fraction: 0.05
  weight_decay: 0.1
  adam_beta1: 0.9
  adam_beta2: 0.95
  clip_grad: 1.0
  seed: 1234
{SPEED}run:
  device: auto
  save: {{save_continued}}
  save_interval: 500
  dist_ckpt_optim_fully_reshardable: true
  eval_interval: 500
  eval_iters: 8
  log_interval: 10
objective:
  meap_mask_ratio: 0.15
"""

TEXTS = {"sft_meap.yaml": FINE_TUNING, "sft_ntp.yaml": PLAIN_FINE_TUNING, "continue.yaml": CONTINUED}
"""File -> its text, with fields of `files`. Their settings are those of examples/recipes/base, which a test compares."""


def files(spec: ModelSpec, *, model: str, tokenizer: str) -> dict[str, str]:
    """Return the recipes of an import: file name -> content.

    Args:
        spec: the model, as it was written.
        model: its name, for descriptions and `save`.
        tokenizer: where its tokenizer is, as a command would name it.
    """
    row = longest_row(spec)
    run = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in model) or "model"
    fields = {
        "meap": as_yaml(f"fine-tuning of {model} with MEAP"),
        "ntp": as_yaml(f"fine-tuning of {model}, plain next-token prediction"),
        "continued": as_yaml(f"continued pre-training of {model} with MEAP"),
        "tokenizer": " ".join(tokenizer.split()),
        "row": row,
        "longest": row + 1,
        **{f"save_{kind}": as_yaml(f"runs/{run}_{name}") for kind, name in SAVES.items()},
    }
    return {"model.yaml": "\n".join(model_lines(spec, model)) + "\n"} | {
        name: text.format(**fields) for name, text in TEXTS.items()
    }


def longest_row(spec: ModelSpec) -> int:
    """Return the tokens of a row in the recipes of a model."""
    return min(LONGEST_ROW, spec.max_positions)


SAVES = {"meap": "sft_meap", "ntp": "sft_ntp", "continued": "continue"}


def model_lines(spec: ModelSpec, model: str) -> Iterator[str]:
    """Yield model.yaml: the recipe settings of the model, and that its weights are beside it, wherever that is."""
    yield f"description: {as_yaml(f'the model of {model}, as `meap convert import` wrote it')}"
    yield "model:"
    for key, value in recipe_settings(spec).items():
        yield f"  {key}: {as_yaml(value)}"
    yield "run:"
    yield "  pretrained_checkpoint: .  # the folder of this file"


def as_yaml(value: Any) -> str:
    """Return a value as YAML writes it on one line."""
    text = json.dumps(value)
    # YAML 1.1 takes 1e-05 for a word, 1.0e-05 for a number.
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "e" in text and "." not in text else text
