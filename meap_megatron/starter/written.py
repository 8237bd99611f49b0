"""The recipe and the script that `meap init` writes. Pure functions of what was found."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.shipped import sbatch
from meap_megatron.starter.found import CONVERSATIONS, Findings, relative

CPU_ROW, CPU_BATCH, CPU_STEPS, LONGEST_ROW, UNKNOWN_ROW = 512, 4, 20, 4096, 2048
"""A first try with a model on a CPU: tokens of a row, rows of a step, steps. A row on a GPU: at most, and where the model
does not say."""
BYTES_PER_TOKEN = 4
"""Of text, about, for the length of a run."""


@dataclass(frozen=True, kw_only=True)
class FirstModel:
    """A model to train from the beginning, and its run.

    Attributes:
        settings: its recipe's keys, as YAML.
        row: tokens of a sample.
        batch: samples of a step.
        pieces: of the tokenizer that is trained where there is none.
        steps: at least and at most.
    """

    what: str
    settings: str
    row: int
    batch: int
    pieces: int
    steps: tuple[int, int]


LAYERS = """\
  group_query_attention: true
  swiglu: true
  disable_bias_linear: true
  normalization: RMSNorm
  norm_epsilon: 1.0e-5
  position_embedding_type: rope
  untie_embeddings_and_output_weights: true
  hidden_dropout: 0.0
  attention_dropout: 0.0
  make_vocab_size_divisible_by: 64
"""
ON_CPU = FirstModel(
    what="about 3 M parameters, for a CPU",
    settings=f"""\
  num_layers: 4
  hidden_size: 128
  ffn_hidden_size: 344
  num_attention_heads: 4
  num_query_groups: 2
{LAYERS}""",
    row=256,
    batch=8,
    pieces=8192,
    steps=(20, 400),
)
ON_GPU = FirstModel(
    what="about 0.1 B parameters, for a first run on a GPU",
    settings=f"""\
  num_layers: 12
  hidden_size: 768
  ffn_hidden_size: 2048
  num_attention_heads: 12
  num_query_groups: 4
{LAYERS}""",
    row=2048,
    batch=64,
    pieces=32000,
    steps=(100, 20_000),
)


PRETRAINING = """\
description: {description}
model:
{settings}
{data}
  split: {split}
  seq_length: {row}
  max_position_embeddings: {row}
  num_workers: 0
optimizer:
  train_iters: {length}
  global_batch_size: {batch}
  micro_batch_size: {micro_batch}
  lr: 1.0e-3
  min_lr: 1.0e-4
  lr_decay_style: cosine
  lr_warmup_fraction: 0.05
  weight_decay: 0.1
  adam_beta2: 0.95
  clip_grad: 1.0
  seed: 1234
precision: {precision}
{run}
  save_interval: {often}
  eval_interval: {often}
  eval_iters: {evaluations}
  log_interval: 10
  dist_ckpt_optim_fully_reshardable: true
objective:
  meap_mask_ratio: 0.15  # 0 is plain next-token prediction, the arm to compare with
"""


@dataclass(frozen=True, kw_only=True)
class ScriptStep:
    """One command of the script.

    Attributes:
        why: a comment.
        command: of the shell.
        makes: a path that exists when it is done; "" for a command that continues by itself.
    """

    why: str
    command: str
    makes: str = ""


def row_of(found: Findings) -> int:
    """Return the tokens of a row."""
    if found.model is None:
        return (ON_GPU if found.gpus else ON_CPU).row
    longest = found.longest or UNKNOWN_ROW
    return min(longest, LONGEST_ROW if found.gpus else CPU_ROW)


def steps_of(found: Findings, *, start: Path, out: str) -> list[ScriptStep]:
    """Return the commands from what was found to a trained model.

    Args:
        found: what there is.
        start: the folder in which the script runs.
        out: the folder of everything that is made, from there.
    """

    def name(path: Path) -> str:
        return shlex.quote(relative(path, start))

    inputs = " ".join(name(path) for path in found.data.paths)
    key = "" if found.data.key == "text" else f" --json-key {shlex.quote(found.data.key)}"
    place = shlex.quote(out)
    steps = []
    if found.model is not None:
        own = f" --tokenizer {name(found.tokenizer)}" if found.tokenizer else ""
        command = f"meap convert import {name(found.model)} {place}/model --add-mask-token{own}"
        steps.append(
            ScriptStep(
                why="The weights, as a checkpoint that Megatron trains", command=command, makes=f"{place}/model"
            )
        )
        tokenizer = f"{place}/model/tokenizer"
    elif found.tokenizer is not None:
        tokenizer = name(found.tokenizer)
    else:
        tokenizer = f"{place}/tokenizer"
        pieces = (ON_GPU if found.gpus else ON_CPU).pieces
        command = f"meap tokenizer train {inputs}{key} --vocab-size {pieces} --output {tokenizer}"
        steps.append(
            ScriptStep(why="A tokenizer of your texts, since there is none", command=command, makes=tokenizer)
        )
    chat = found.data.kind == CONVERSATIONS
    verb = f"sft {inputs} --max-length {row_of(found) + 1}" if chat else f"text {inputs}{key}"
    steps += [
        ScriptStep(
            why="The data, as Megatron reads it; an interrupted run continues",
            command=f"meap preprocess {verb} --tokenizer {tokenizer} --output {place}/data/train --resume",
            makes=f"{place}/data/train.meap.json",
        ),
        ScriptStep(
            why="One sample as training reads it: masked inputs, labels, and which of them have a loss",
            command=f"meap show {place}/data/train --index 0 --seq-length {row_of(found)}",
        ),
        ScriptStep(
            why="Training; the same command continues an interrupted run, and ends at once when it is finished",
            command=f"meap train {place}/recipe.yaml",
        ),
        ScriptStep(
            why="A folder for transformers, vLLM and the rest, with logits compared on both sides",
            command=f"meap convert export {place}/run {place}/hf",
            makes=f"{place}/hf",
        ),
    ]
    return steps


def last_command(found: Findings, out: str) -> str:
    """Return the command that lets a person try the model."""
    if found.data.kind == CONVERSATIONS:
        return f"meap chat {shlex.quote(out)}/run"
    return f'meap generate {shlex.quote(out)}/run "Once upon a time"'


def script(found: Findings, *, start: Path, out: str) -> str:
    """Return run.sh.

    Args:
        found: what there is.
        start: the folder in which it runs.
        out: the folder of everything that is made, from there.
    """
    lines = [
        "#!/usr/bin/env bash",
        "# Written by `meap init`. Every command may be run by itself; what is made already is not made again.",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")"' + "/.." * len(Path(out).parts),
    ]
    for number, step in enumerate(steps_of(found, start=start, out=out), 1):
        lines += ["", f"# {number}. {step.why}."]
        lines += [f"[ -e {step.makes} ] ||", f"    {step.command}"] if step.makes else [step.command]
        if step.command.startswith("meap train"):
            lines += slurm_lines(found, start=start, out=out)
    lines += ["", f"echo {shlex.quote('Now try it:  ' + last_command(found, out))}"]
    return "\n".join(lines) + "\n"


def slurm_lines(found: Findings, *, start: Path, out: str) -> list[str]:
    """Return the comment on training as a job, where there is SLURM."""
    if not found.slurm:
        return []
    plan = f"#   meap plan {out}/recipe.yaml --gpus 8 --gpu h100 --out {out}/plan   # memory, time, layout, script"
    name = "sft" if found.data.kind == CONVERSATIONS else "pretrain"
    command = sbatch(name, [f"{out}/recipe.yaml", f"save={out}/run"], start=start)
    return ["# This machine has SLURM. As a job instead:", f"#   {command}", plan]


def recipe(found: Findings, *, out: str) -> str:
    """Return recipe.yaml."""
    size = ON_GPU if found.gpus else ON_CPU
    machine = f"{found.gpus} GPU{'s' * (found.gpus > 1)}" if found.gpus else "a CPU"
    what = "fine-tuning" if found.data.kind == CONVERSATIONS else "training"
    head = [
        f"# Written by `meap init` for {machine}. Keys are Megatron's flag names; any of them may also be given as",
        f"# `meap train {out}/recipe.yaml KEY=VALUE`. `meap plan` says what a larger machine would make of it.",
    ]
    data = ["data:", f"  data_path: {json.dumps(f'{out}/data/train')}"]
    run = ["run:", f"  save: {json.dumps(f'{out}/run')}"]
    if found.gpus > 1:
        run.append("  nproc: 0  # one process per GPU")
    if found.model is not None:
        base = "sft_meap.yaml" if found.data.kind == CONVERSATIONS else "continue.yaml"
        body = [
            f"description: {json.dumps(f'{what} of {found.model.name} with MEAP')}",
            f"extends: model/{base}  # written by the import, step 1 of run.sh; it has all other settings",
            *data,
            f"  seq_length: {row_of(found)}" + ("" if found.gpus else "  # short rows, for a first try on a CPU"),
        ]
        if not found.gpus:
            body += ["optimizer:", f"  global_batch_size: {CPU_BATCH}"]
            if found.data.kind == CONVERSATIONS:
                body.append("  meap_epochs: null  # remove this line and the next for two passes over the data")
            body.append(f"  train_iters: {CPU_STEPS}  # to see it work: a CPU needs hours for more")
        return "\n".join([*head, *body, *run]) + "\n"
    tokens = found.data.size // BYTES_PER_TOKEN
    steps = min(max(tokens // (size.row * size.batch), size.steps[0]), size.steps[1])
    return "\n".join(
        [
            *head,
            PRETRAINING.format(
                description=json.dumps(f"training from the beginning with MEAP, {size.what}"),
                settings=size.settings.rstrip("\n"),
                data="\n".join(data),
                split="98,2,0  # training, validation, test"
                if found.data.many
                else "100,0,0  # few documents: none is held out",
                row=size.row,
                length=f"{steps}  # of {size.batch} x {size.row} tokens; the data are about {tokens:,} tokens",
                batch=size.batch,
                micro_batch=4 if found.gpus else 2,
                precision="bf16" if found.gpus else "fp32",
                run="\n".join(run),
                often=max(steps // 4, 1),
                evaluations=4 if found.data.many else 0,
            ),
        ]
    )
