"""The `--meap-*` flags beside Megatron's own, and the checks that need both."""

import argparse
from dataclasses import dataclass
from typing import Any

from meap_megatron.config import MaskConfig
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.declared import add_flags, setting
from meap_megatron.errors import UserError
from meap_megatron.launch import external_loader, precision
from meap_megatron.launch.runtime import is_importable, resolve_device
from meap_megatron.layer_pattern import RECURRENT
from meap_megatron.masking.corruption import Corruption
from meap_megatron.masking.loss import LossOn
from meap_megatron.masking.ratio import MaskRatio
from meap_megatron.masking.strategies import STRATEGIES


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is told besides Megatron's own flags and the settings of its dataset."""

    loss_on: str = setting(
        "all",
        "what is trained: all positions (the paper), unmasked, predictors (of masked tokens), or weights "
        "(masked=0.5,unmasked=1); validation always counts all",
    )
    pair: str = setting(
        "none",
        "clean+masked: every sample twice in a step, as two rows of the global batch (twice the compute per sample)",
        choices=("none", "clean+masked"),
    )
    pair_weight: float = setting(1.0, "weight of the masked row's loss in a pair, in (0, 1]")
    mask_token_id: int | None = setting(None, "id of [MASK] (default: from the sidecar of the data)")
    protect_special: bool = setting(False, "never mask BOS and EOS (the official code masks them)")
    init: str = setting(
        "megatron",
        "official: the initialisation of the official code, which Megatron's flags cannot express",
        choices=("megatron", "official"),
    )
    decay_norms: bool = setting(False, "weight decay on norm gains too, as the official code")
    metrics: str | None = setting(None, "path of metrics.jsonl (default: metrics.jsonl in the --save folder)")
    peak_tflops: float | None = setting(
        None, "peak of one device in TFLOP/s, for MFU (default: by GPU name; on a CPU measured at start)"
    )
    device: str = setting("auto", "where to run", choices=("auto", "cpu", "cuda"))
    log: str | None = setting(
        None, "folder for Megatron's own output, one file per rank; then only progress lines are shown"
    )
    keep_checkpoints: int | None = setting(
        None, "remove checkpoints older than the N newest good ones, N of at least 2 (default: keep all)"
    )
    check_checkpoint: str = setting(
        "auto",
        "how the checkpoint to load is compared with its manifest at the start: the size of every file, or its content too "
        "(auto: full up to 8 GiB)",
        choices=("auto", "sizes", "full"),
    )
    trace: str | None = setting(None, "folder for a digest of every micro-batch on every rank, to compare runs")
    sft: bool = setting(
        False,
        "fine-tune: data_path names data of `meap preprocess sft`; another --meap-sft-... or --meap-epochs says it too",
    )
    sft_loss: str = setting(
        "token_mean",
        "mean over all trained tokens of the global batch, or the mean of the micro-batches' means (official code)",
        choices=("token_mean", "microbatch_mean"),
    )
    epochs: float | None = setting(None, "passes over the fine-tuning data, instead of --train-iters")


KERNELS = {"M": ("mamba-ssm", "causal-conv1d", "einops"), "G": ("fla",)}
"""Layers of a pattern -> the packages that compute them on a GPU."""

SFT_PREFIX = "meap_sft_"


def add_meap_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags to Megatron's parser (its `extra_args_provider`)."""
    masking = parser.add_argument_group("MEAP", "mask-enhanced autoregressive prediction (arXiv 2502.07490)")
    add_flags(masking, MaskConfig)
    add_flags(masking, RunSettings)
    text = "on data of `meap preprocess sft`; ratio 0 is plain fine-tuning"
    add_flags(parser.add_argument_group("MEAP fine-tuning", text), SFTConfig, prefix=SFT_PREFIX)
    return parser


def check(args: Any) -> None:
    """Refuse settings that would fail later or silently do something else."""
    check_masked_inputs(args)
    precision.check(vars(args) | {"fp8_format": args.fp8, "device": args.meap_device})
    if STRATEGIES[args.meap_mask_strategy].follows_step:
        if args.step_batch_size_schedule is not None:
            raise UserError(
                f"--meap-mask-strategy {args.meap_mask_strategy} numbers its position sets by optimizer step, which "
                "needs a constant global batch size",
                fix="drop --step-batch-size-schedule",
            )
        if args.dataloader_type == "cyclic":
            raise UserError(
                f"--meap-mask-strategy {args.meap_mask_strategy} numbers its position sets by the order of the "
                "samples, which --dataloader-type cyclic changes",
                fix="use single",
            )
    if args.dataloader_type == "external":
        external_loader.check(args)
    check_recurrent_layers(args)
    if args.dataloader_inter_document_masking and args.context_parallel_size > 1:
        raise UserError(
            "--dataloader-inter-document-masking with context parallel has not been run on any GPU yet and is refused",
            fix="set context_parallel_size=1 or leave inter-document masking out",
        )
    if args.context_parallel_size > 1 and args.transformer_impl == "local" and not args.fake_process_group:
        raise UserError(
            f"context_parallel_size={args.context_parallel_size} needs Transformer Engine and GPUs",
            fix="set context_parallel_size=1",
        )
    if args.dataloader_inter_document_masking and args.pipeline_model_parallel_size > 1 and args.micro_batch_size > 1:
        raise UserError(
            f"--micro-batch-size {args.micro_batch_size} with segments and pipeline parallel: the rows of a micro-batch "
            "become one long row, whose shape Megatron's pipeline does not expect",
            fix="set micro_batch_size=1, gradients are the same",
        )
    if args.transformer_impl == "transformer_engine" and args.reset_attention_mask:
        raise UserError(
            "--reset-attention-mask has no effect on Transformer Engine's causal attention, so documents would see "
            "each other",
            fix="use --dataloader-inter-document-masking",
        )


def check_recurrent_layers(args: Any) -> None:
    """Refuse layers that carry a state from position to position where documents would share it, or without their kernels.

    Raises:
        UserError: naming the flag, its value, the rule and the way out.
    """
    pattern = args.hybrid_layer_pattern or ""
    for symbol in sorted(set(pattern) & set(RECURRENT)):
        given, layer = f"--hybrid-layer-pattern {pattern}", f"{RECURRENT[symbol]} layers ({symbol})"
        if args.reset_attention_mask:
            raise UserError(
                f"{given}: --reset-attention-mask has no effect on {layer}, which would carry their state from document to "
                "document",
                fix="use --dataloader-inter-document-masking",
            )
        on_cpu = args.meap_device == "cpu" or args.transformer_impl == "local"
        if symbol == "G" and args.dataloader_inter_document_masking and on_cpu:
            raise UserError(
                f"{given}: without a GPU a gated delta net (G) takes no segments, which fine-tuning data and "
                "--dataloader-inter-document-masking have",
                fix="use a GPU, or another layer",
            )
        missing = [name for name in KERNELS[symbol] if not is_importable(name.replace("-", "_"))]
        if missing and args.meap_device != "cpu" and resolve_device("auto") == "cuda" and not args.fake_process_group:
            raise UserError(
                f"{given}: on a GPU, {layer} are computed by packages of CUDA kernels",
                fix=f"install {', '.join(missing)}",
            )


def check_masked_inputs(args: Any) -> None:
    """Refuse settings of masked inputs that contradict each other."""
    Corruption.parse(args.meap_corruption)
    loss = LossOn.parse(args.meap_loss_on, pair_weight=args.meap_pair_weight)
    masks = MaskRatio.parse(args.meap_mask_ratio).highest > 0
    if not masks:
        for name, plain in (("corruption", "mask"), ("loss_on", "all"), ("clean_fraction", 0.0), ("pair", "none")):
            if (value := getattr(args, f"meap_{name}")) != plain:
                raise UserError(
                    f"meap_{name}={value} has no effect without meap_mask_ratio above 0", fix="set it, or leave it out"
                )
    if args.meap_pair == "none":
        if args.meap_pair_weight != 1.0:
            raise UserError(
                f"meap_pair_weight={args.meap_pair_weight} needs meap_pair=clean+masked", fix="set it, or leave it out"
            )
    else:
        if args.global_batch_size is not None and args.global_batch_size % 2:
            raise UserError(
                f"global_batch_size={args.global_batch_size} is odd: with meap_pair=clean+masked it counts rows, two per "
                "sample",
                fix="make global_batch_size even",
            )
        if STRATEGIES[args.meap_mask_strategy].follows_step:
            raise UserError(
                f"meap_pair=clean+masked with meap_mask_strategy={args.meap_mask_strategy}, whose masks follow the step",
                fix="use meap_mask_strategy=random",
            )
        if args.dataloader_type in ("cyclic", "external"):
            raise UserError(
                f"meap_pair=clean+masked with dataloader_type={args.dataloader_type}: the two rows of a sample would not "
                "follow each other",
                fix="use single",
            )
    rows = (args.global_batch_size or 1) * (args.seq_length or 1)
    if loss.largest * rows >= 2**31:
        raise UserError(
            f"meap_loss_on={args.meap_loss_on} with meap_pair_weight={args.meap_pair_weight} makes weights of up to "
            f"{loss.largest}, and a step of {rows:,} tokens would exceed Megatron's 32-bit count",
            fix="use rounder weights",
        )
