"""From the data iterator to what this rank's forward pass needs, with the masked positions on board.

Megatron hands the last pipeline stage labels and loss mask, not tokens, and broadcasts a fixed set of fields to the other
tensor-parallel ranks. To tell masked from other positions on every layout without a second broadcast, the rank that reads
the sample adds 2 to the loss mask where the input is `[MASK]`; weights lie in [0, 1], so both can be read back exactly.

Given  tokens = [5, M, 7, M], loss_mask = [1, 1, 0, 0]
then   encoded = [1, 3, 0, 2] -> loss_mask = [1, 1, 0, 0], masked = [0, 1, 0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import (
    flatten_batch_for_packed_sequences,
    get_batch_on_this_cp_rank,
    get_batch_on_this_tp_rank,
)

FIELDS = ("tokens", "labels", "loss_mask", "position_ids", "attention_mask", "cu_seqlens", "max_seqlen")
UNUSED_FIELDS = ("cu_seqlens_padded", "local_cp_size")
"""Read by Megatron's broadcast with context parallel, and not used here."""
MASKED = 2.0
"""What a masked position adds to its entry of the encoded loss mask."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch on this rank; a field is None where this pipeline stage does not need it."""

    tokens: torch.Tensor | None
    """int64[b, s], masked."""
    labels: torch.Tensor | None
    """int64[b, s], never masked."""
    position_ids: torch.Tensor | None
    """int64[b, s]."""
    attention_mask: torch.Tensor | None
    """bool[b, 1, s, s], true where attention is forbidden; None: causal."""
    loss_mask: torch.Tensor | None
    """float32[b, s], weights in [0, 1]."""
    masked: torch.Tensor | None
    """bool[b, s], true where the input is `[MASK]`; in fine-tuning, where the target is masked in the input."""
    packed: PackedSeqParams | None
    """Bounds of the segments, with inter-document masking or packed rows; then b is 1."""


def encode(
    loss_mask: torch.Tensor, tokens: torch.Tensor, mask_token_id: int | None, *, of_target: bool = False
) -> torch.Tensor:
    """Return float32[b, s]: the loss mask with `MASKED` added at masked positions.

    Args:
        loss_mask: float32[b, s], weights in [0, 1].
        tokens: int64[b, s], the masked input.
        mask_token_id: id of `[MASK]`; None: nothing is masked.
        of_target: mark the position that predicts a masked token (the one before it) instead of the masked input: in
            fine-tuning these are the positions that a masked copy trains. Segments begin with a prompt, so the position
            before a masked token belongs to its own segment.
    """
    if mask_token_id is None:
        return loss_mask
    masked = tokens == mask_token_id
    if of_target:
        masked = torch.nn.functional.pad(masked[:, 1:], (0, 1))
    return loss_mask + MASKED * masked


def decode(encoded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split an encoded loss mask into float32[b, s] weights and bool[b, s] masked positions."""
    masked = encoded >= MASKED
    return encoded - MASKED * masked, masked


def packed_params(cu_seqlens: torch.Tensor, max_seqlen: torch.Tensor) -> PackedSeqParams:
    """Describe segments bounded by int32 `cu_seqlens[1, segments + 1]` in the THD format."""
    bounds = cu_seqlens.squeeze(0)
    longest = int(max_seqlen.max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        cu_seqlens_q_padded=bounds,
        cu_seqlens_kv_padded=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def reads_data(args: Any, vp_stage: int | None = None) -> bool:
    """Tell whether this rank opens the dataset: tensor-parallel rank 0 of every stage that needs a field of it."""
    if mpu.get_tensor_model_parallel_rank() != 0:
        return False
    return stage_needs_data(args, vp_stage)


def stage_needs_data(args: Any, vp_stage: int | None) -> bool:
    """Tell whether this (virtual) stage uses any field: the first, the last, and all of them with packed segments."""
    return has_segments(args) or is_first(vp_stage) or is_last(vp_stage)


def has_segments(args: Any) -> bool:
    """Tell whether samples carry `cu_seqlens`."""
    return bool(args.dataloader_inter_document_masking)


def is_first(vp_stage: int | None) -> bool:
    """Tell whether this (virtual) stage holds the embedding."""
    return mpu.is_pipeline_first_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage)


def is_last(vp_stage: int | None) -> bool:
    """Tell whether this (virtual) stage computes the loss."""
    return mpu.is_pipeline_last_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage)


def get_batch(
    iterator: Iterator[dict[str, torch.Tensor]] | None,
    *,
    args: Any,
    vp_stage: int | None,
    micro_batch_size: int,
    mask_token_id: int | None,
) -> Batch:
    """Read a micro-batch on tensor-parallel rank 0, broadcast it, and keep what this rank needs.

    Args:
        iterator: yields the collated samples; None on ranks that read no data.
        args: Megatron's arguments.
        vp_stage: index of the virtual stage, None without interleaving.
        micro_batch_size: samples in this micro-batch (evaluation may have its own).
        mask_token_id: id of `[MASK]`, None if nothing is masked.
    """
    nothing = dict.fromkeys(FIELDS)
    if not stage_needs_data(args, vp_stage):
        return Batch(**{k: nothing.get(k) for k in Batch.__annotations__})
    raw: dict[str, Any] = nothing | dict.fromkeys(UNUSED_FIELDS)
    if mpu.get_tensor_model_parallel_rank() == 0:
        assert iterator is not None
        sample = next(iterator)
        sample["loss_mask"] = encode(sample["loss_mask"], sample["tokens"], mask_token_id, of_target=args.meap_is_sft)
        raw |= {k: v.cuda(non_blocking=True) for k, v in sample.items() if k in FIELDS and v is not None}
    batch = get_batch_on_this_tp_rank(
        raw,
        has_cu_seqlens=has_segments(args),
        is_hybrid_cp=False,
        create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader,
        broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
        broadcast_group=mpu.get_tensor_model_parallel_group(),
        cp_size=args.context_parallel_size,
        tp_rank=mpu.get_tensor_model_parallel_rank(),
        micro_batch_size=micro_batch_size,
        seq_length=args.seq_length,
        mtp_on_this_rank=False,
        pipeline_model_parallel_size=args.pipeline_model_parallel_size,
        is_pipeline_first_stage=is_first(vp_stage),
        is_pipeline_last_stage=is_last(vp_stage),
    )
    packed = None
    if has_segments(args):
        batch = flatten_batch_for_packed_sequences(batch)
        packed = packed_params(batch["cu_seqlens"], batch["max_seqlen"])
    if args.context_parallel_size > 1:
        # Documents are rarely a multiple of 2 * CP tokens, so rows are split as a whole.
        batch = get_batch_on_this_cp_rank(
            batch,
            is_hybrid_cp=False,
            cp_group=mpu.get_context_parallel_group(),
            use_per_sequence_balancing=has_segments(args),
        )
    loss_mask, masked = (None, None) if batch.get("loss_mask") is None else decode(batch["loss_mask"])
    return Batch(
        tokens=batch.get("tokens"),
        labels=batch.get("labels"),
        position_ids=batch.get("position_ids"),
        attention_mask=batch.get("attention_mask"),
        loss_mask=loss_mask,
        masked=masked,
        packed=packed,
    )
