"""The `--meap-*` flags beside Megatron's own, and the checks that need both."""

import argparse
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.launch import external_loader, precision
from meap_megatron.masking.corruption import Corruption
from meap_megatron.masking.loss import LossOn
from meap_megatron.masking.ratio import MaskRatio
from meap_megatron.masking.strategies import STRATEGIES


def add_meap_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags to Megatron's parser (its `extra_args_provider`)."""
    group = parser.add_argument_group("MEAP", "mask-enhanced autoregressive prediction (arXiv 2502.07490)")
    group.add_argument(
        "--meap-mask-ratio",
        type=mask_ratio,
        default=0.0,
        help="fraction of the input tokens of each sample to mask, in [0, 1); 0 is plain next-token prediction, "
        "the paper uses 0.15. A range drawn per sample (0:0.5), or points of a schedule over training (0@0,0.15@0.1)",
    )
    group.add_argument(
        "--meap-corruption",
        default="mask",
        help="what takes the place of a chosen token: mask (the paper), random (an ordinary token), mix, or "
        "mix:MASK,RANDOM,KEPT with shares that add up to 1",
    )
    group.add_argument(
        "--meap-clean-fraction", type=float, default=0.0, help="share of the samples that are left unmasked, in [0, 1)"
    )
    group.add_argument("--meap-skip-first", type=int, default=0, help="never mask the first N positions of a sample")
    group.add_argument(
        "--meap-min-document-tokens", type=int, default=0, help="never mask documents of fewer than N tokens"
    )
    group.add_argument(
        "--meap-loss-on",
        default="all",
        help="what is trained: all positions (the paper), unmasked, predictors (of masked tokens), or weights "
        "(masked=0.5,unmasked=1); validation always counts all",
    )
    group.add_argument(
        "--meap-pair",
        choices=("none", "clean+masked"),
        default="none",
        help="clean+masked: every sample twice in a step, as two rows of the global batch (twice the compute per sample)",
    )
    group.add_argument(
        "--meap-pair-weight", type=float, default=1.0, help="weight of the masked row's loss in a pair, in (0, 1]"
    )
    group.add_argument(
        "--meap-mask-strategy",
        choices=tuple(STRATEGIES),
        default="random",
        help="; ".join(f"{name}: {strategy.summary}" for name, strategy in STRATEGIES.items()),
    )
    group.add_argument("--meap-span-length", type=int, default=5, help="tokens per span, with strategy span")
    group.add_argument(
        "--meap-mask-seed", type=int, default=None, help="seed of the masks (default: --seed); data order keeps --seed"
    )
    group.add_argument(
        "--meap-mask-token-id", type=int, default=None, help="id of [MASK] (default: from the sidecar of the data)"
    )
    group.add_argument(
        "--meap-mask-validation", action="store_true", help="mask the validation inputs too (default: clean inputs)"
    )
    group.add_argument(
        "--meap-protect-special", action="store_true", help="never mask BOS and EOS (the official code masks them)"
    )
    group.add_argument(
        "--meap-init",
        choices=("megatron", "official"),
        default="megatron",
        help="official: the initialisation of the official code, which Megatron's flags cannot express",
    )
    group.add_argument(
        "--meap-decay-norms", action="store_true", help="weight decay on norm gains too, as the official code"
    )
    group.add_argument(
        "--meap-metrics", default=None, help="path of metrics.jsonl (default: metrics.jsonl in the --save folder)"
    )
    group.add_argument(
        "--meap-peak-tflops",
        type=float,
        default=None,
        help="peak of one device in TFLOP/s, for MFU (default: by GPU name; on a CPU measured at start)",
    )
    group.add_argument("--meap-device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    group.add_argument(
        "--meap-log",
        default=None,
        help="folder for Megatron's own output, one file per rank; then only progress lines are shown",
    )
    group.add_argument(
        "--meap-keep-checkpoints",
        type=int,
        default=None,
        help="remove checkpoints older than the N newest good ones, N of at least 2 (default: keep all)",
    )
    group.add_argument(
        "--meap-check-checkpoint",
        choices=("auto", "sizes", "full"),
        default="auto",
        help="how the checkpoint to load is compared with its manifest at the start: the size of every file, or its "
        "content too (auto: full up to 8 GiB)",
    )
    add_sft_arguments(parser)
    group.add_argument(
        "--meap-trace", default=None, help="folder for a digest of every micro-batch on every rank, to compare runs"
    )
    return parser


def mask_ratio(text: str) -> float | str:
    """Return a ratio as a number if it is one, else as the text of a range or schedule, checked."""
    try:
        found = MaskRatio.parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text if found.constant is None else found.constant


def add_sft_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags for data made by `meap preprocess sft`; any of them says that a run fine-tunes."""
    group = parser.add_argument_group(
        "MEAP fine-tuning", "on data of `meap preprocess sft`; ratio 0 is plain fine-tuning"
    )
    group.add_argument(
        "--meap-sft",
        action="store_true",
        help="fine-tune: data_path names data of `meap preprocess sft`; another --meap-sft-... or --meap-epochs says it too",
    )
    group.add_argument(
        "--meap-sft-layout",
        choices=("separate", "concat"),
        default="separate",
        help="where the masked copy stands: a segment of its own (official code), or behind the original in one causal "
        "segment (the paper's text; it can read the answer there)",
    )
    group.add_argument(
        "--meap-sft-min-answer", type=int, default=50, help="mask answers of more than this many tokens"
    )
    group.add_argument(
        "--meap-sft-loss-on-original", choices=("answer+end", "none"), default="answer+end", help="trained"
    )
    group.add_argument(
        "--meap-sft-loss-on-copy", choices=("masked", "all_answer", "answer+end"), default="masked", help="trained"
    )
    group.add_argument(
        "--meap-sft-concat-order",
        choices=("orig_first", "mask_first"),
        default="orig_first",
        help="which half comes first in layout concat",
    )
    group.add_argument(
        "--meap-sft-refresh",
        choices=("static", "per_epoch"),
        default="static",
        help="draw the masks once (official code) or anew in every epoch",
    )
    group.add_argument(
        "--meap-sft-sampler",
        choices=("philox", "official"),
        default="philox",
        help="official: CPython's random.sample for one answer after the other, as the official code",
    )
    group.add_argument("--meap-sft-no-pack", action="store_true", help="one segment per row, padded (official code)")
    group.add_argument(
        "--meap-sft-over-long",
        choices=("error", "drop"),
        default="error",
        help="what to do with conversations longer than a row",
    )
    group.add_argument(
        "--meap-sft-loss",
        choices=("token_mean", "microbatch_mean"),
        default="token_mean",
        help="mean over all trained tokens of the global batch, or the mean of the micro-batches' means (official code)",
    )
    group.add_argument(
        "--meap-epochs", type=float, default=None, help="passes over the fine-tuning data, instead of --train-iters"
    )
    return parser


def check(args: Any) -> None:
    """Refuse settings that would fail later or silently do something else.

    Raises:
        UserError: naming the flag, its value, the rule and the way out.
    """
    check_masked_inputs(args)
    precision.check(precision.of_arguments(args))
    if args.meap_span_length < 1:
        raise UserError(f"--meap-span-length {args.meap_span_length} must be at least 1 token")
    if STRATEGIES[args.meap_mask_strategy].follows_step:
        if args.step_batch_size_schedule is not None:
            raise UserError(
                f"--meap-mask-strategy {args.meap_mask_strategy} numbers its position sets by optimizer step, which "
                "needs a constant global batch size; drop --step-batch-size-schedule"
            )
        if args.dataloader_type == "cyclic":
            raise UserError(
                f"--meap-mask-strategy {args.meap_mask_strategy} numbers its position sets by the order of the "
                "samples, which --dataloader-type cyclic changes; use single"
            )
    if args.dataloader_type == "external":
        external_loader.check(args)
    on_cpu = args.meap_device == "cpu" or args.transformer_impl == "local"
    if args.dataloader_inter_document_masking and on_cpu and "G" in (args.hybrid_layer_pattern or ""):
        raise UserError(
            f"--hybrid-layer-pattern {args.hybrid_layer_pattern}: without a GPU a gated delta net (G) takes no "
            "segments, which fine-tuning data and --dataloader-inter-document-masking have; use a GPU, or another layer"
        )
    if args.dataloader_inter_document_masking and args.context_parallel_size > 1:
        raise UserError(
            "--dataloader-inter-document-masking with context parallel has not been run on any GPU yet and is refused; "
            "set context_parallel_size=1 or leave inter-document masking out"
        )
    if args.context_parallel_size > 1 and args.transformer_impl == "local" and not args.fake_process_group:
        raise UserError(
            f"context_parallel_size={args.context_parallel_size} needs Transformer Engine and GPUs; set "
            "context_parallel_size=1"
        )
    if args.dataloader_inter_document_masking and args.pipeline_model_parallel_size > 1 and args.micro_batch_size > 1:
        raise UserError(
            f"--micro-batch-size {args.micro_batch_size} with segments and pipeline parallel: the rows of a micro-batch "
            "become one long row, whose shape Megatron's pipeline does not expect; set micro_batch_size=1, gradients are "
            "the same"
        )
    if args.transformer_impl == "transformer_engine" and args.reset_attention_mask:
        raise UserError(
            "--reset-attention-mask has no effect on Transformer Engine's causal attention, so documents would see "
            "each other; use --dataloader-inter-document-masking"
        )


def check_masked_inputs(args: Any) -> None:
    """Refuse settings of masked inputs that contradict each other.

    Raises:
        UserError: naming the setting, its value, the rule and the way out.
    """
    Corruption.parse(args.meap_corruption)
    loss = LossOn.parse(args.meap_loss_on, pair_weight=args.meap_pair_weight)
    masks = MaskRatio.parse(args.meap_mask_ratio).highest > 0
    if not masks:
        for name, plain in (("corruption", "mask"), ("loss_on", "all"), ("clean_fraction", 0.0), ("pair", "none")):
            if (value := getattr(args, f"meap_{name}")) != plain:
                raise UserError(
                    f"meap_{name}={value} has no effect without meap_mask_ratio above 0; set it, or leave it out"
                )
    if args.meap_pair == "none":
        if args.meap_pair_weight != 1.0:
            raise UserError(
                f"meap_pair_weight={args.meap_pair_weight} needs meap_pair=clean+masked; set it, or leave it out"
            )
    else:
        if args.global_batch_size is not None and args.global_batch_size % 2:
            raise UserError(
                f"global_batch_size={args.global_batch_size} is odd: with meap_pair=clean+masked it counts rows, two per "
                "sample; make it even"
            )
        if STRATEGIES[args.meap_mask_strategy].follows_step:
            raise UserError(
                f"meap_pair=clean+masked with meap_mask_strategy={args.meap_mask_strategy}, whose masks follow the step; "
                "use meap_mask_strategy=random"
            )
        if args.dataloader_type in ("cyclic", "external"):
            raise UserError(
                f"meap_pair=clean+masked with dataloader_type={args.dataloader_type}: the two rows of a sample would not "
                "follow each other; use single"
            )
    rows = (args.global_batch_size or 1) * (args.seq_length or 1)
    if loss.largest * rows >= 2**31:
        raise UserError(
            f"meap_loss_on={args.meap_loss_on} with meap_pair_weight={args.meap_pair_weight} makes weights of up to "
            f"{loss.largest}, and a step of {rows:,} tokens would exceed Megatron's 32-bit count; use rounder weights"
        )
