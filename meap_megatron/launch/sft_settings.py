"""Fine-tuning: from the arguments to the settings of the rows, and what packed rows cannot be combined with."""

from typing import Any

from meap_megatron.datasets.sft.config import SFTConfig, config_of_data
from meap_megatron.declared import from_args
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar
from meap_megatron.launch.arguments import SFT_PREFIX
from meap_megatron.masking.ratio import MaskRatio


def sft_config(args: Any, sidecar: Sidecar, prefix: str) -> SFTConfig:
    """Return the settings of the rows of a dataset; with mask ratio 0, originals only."""
    ratio = MaskRatio.parse(args.meap_mask_ratio).highest
    fields = from_args(SFTConfig, args, prefix=SFT_PREFIX) | ({"ratio": ratio} if ratio else {"layout": "ntp"})
    if args.meap_mask_token_id is not None:
        fields["mask_id"] = args.meap_mask_token_id
    return config_of_data(
        prefix,
        sidecar,
        **fields,
        corruption=args.meap_corruption,
        seed=args.seed if args.meap_mask_seed is None else args.meap_mask_seed,
        mask_validation=args.meap_mask_validation,
    )


def check(args: Any) -> None:
    """Refuse what packed segments cannot be combined with."""
    if args.context_parallel_size > 1:
        raise UserError(
            f"context_parallel_size={args.context_parallel_size}: packed fine-tuning rows are not cut for context "
            "parallel yet",
            fix="set it to 1 and use tensor and pipeline parallel",
        )
    if not args.dataloader_inter_document_masking or (
        args.meap_sft_loss == "token_mean" and not args.calculate_per_token_loss
    ):
        raise UserError(
            "fine-tuning needs dataloader_inter_document_masking and calculate_per_token_loss, which are set when data_path "
            "names the data",
            fix="name it there, not in a data_args_path file",
        )
    for name, plain in (
        ("mask_strategy", "random"),
        ("protect_special", False),
        ("clean_fraction", 0.0),
        ("skip_first", 0),
        ("min_document_tokens", 0),
        ("pair", "none"),
    ):
        if (value := getattr(args, f"meap_{name}")) != plain:
            raise UserError(
                f"meap_{name}={value} is for pre-training; fine-tuning masks answer tokens of a copy",
                fix="leave it out",
            )
    if MaskRatio.parse(args.meap_mask_ratio).constant is None:
        raise UserError(
            f"meap_mask_ratio={args.meap_mask_ratio}: fine-tuning has one ratio for all answers",
            fix="give a number, such as 0.1",
        )
    if args.reset_attention_mask or args.reset_position_ids or args.eod_mask_loss:
        raise UserError(
            "reset_attention_mask, reset_position_ids and eod_mask_loss are for pre-training; packed rows carry their "
            "own segment bounds, positions and loss",
            fix="leave them out",
        )
    if args.dataloader_type == "cyclic":
        raise UserError("dataloader_type=cyclic: the rows are shuffled per epoch already", fix="use single")
    if args.meap_sft_loss == "microbatch_mean" and args.calculate_per_token_loss:
        raise UserError("calculate_per_token_loss contradicts meap_sft_loss=microbatch_mean", fix="leave one out")
