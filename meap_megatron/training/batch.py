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
from megatron.core.utils import get_batch_on_this_cp_rank, get_batch_on_this_tp_rank

from meap_megatron.training.work import Work

FIRST_FIELDS = ("tokens", "position_ids")
"""What the first pipeline stage reads."""
LAST_FIELDS = ("labels", "loss_mask")
"""What the last pipeline stage reads."""
SEGMENT_FIELDS = ("cu_seqlens", "max_seqlen")
FIELDS = (*FIRST_FIELDS, *LAST_FIELDS, "attention_mask", *SEGMENT_FIELDS)
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
    work: Work | None = None
    """Of the segments, on the rank that read them."""


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


def join_rows(sample: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Work]:
    """Lay the rows of a micro-batch with segments end to end, as the THD format wants them; everything on the host.

    Given  bounds [[0, 3, 8, 8], [0, 8, 8, 8]] of two rows of 8 positions
    then   cu_seqlens [[0, 3, 8, 16]] and max_seqlen [8].

    Args:
        sample: the collated fields: int64 or float32[b, s], cu_seqlens int32[b, s + 1], and with padding num_segments
            int32[b], the segments of each row that are not padding (a last segment).

    Returns:
        (the fields with b = 1, cu_seqlens int32[1, segments + 1] without repetitions, max_seqlen int32[1]; what they cost)
    """
    bounds = sample["cu_seqlens"]
    rows, length = bounds.shape[0], int(bounds[0, -1])
    lengths = bounds.diff(dim=1).long()
    starts = torch.arange(rows, dtype=bounds.dtype)[:, None] * length
    ends = (bounds[:, 1:] + starts).flatten()
    joined = torch.unique_consecutive(torch.cat([bounds[0, :1], ends]))
    longest = lengths.max().to(torch.int32)
    if (real := sample.get("num_segments")) is not None:
        lengths = lengths * (torch.arange(lengths.shape[1]) < real[:, None])
    work = Work(tokens=int(lengths.sum()), squares=int(lengths.square().sum()))
    fields = {name: sample[name].reshape(1, -1) for name in (*FIRST_FIELDS, *LAST_FIELDS) if name in sample}
    return fields | {"cu_seqlens": joined[None], "max_seqlen": longest[None]}, work


def packed_params(cu_seqlens: torch.Tensor, longest: int) -> PackedSeqParams:
    """Describe segments of at most `longest` positions with int32 bounds `cu_seqlens[1, segments + 1]` in the THD format."""
    bounds = cu_seqlens.squeeze(0)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        cu_seqlens_q_padded=bounds,
        cu_seqlens_kv_padded=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        # Padding is a segment of its own. Without a word, some versions of Transformer Engine compare the bounds in every
        # layer to find that out, and wait for the GPU to do so.
        pad_between_seqs=False,
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
    segments = has_segments(args)
    batch: dict[str, Any] = nothing | dict.fromkeys(UNUSED_FIELDS)
    work, longest = None, None
    if mpu.get_tensor_model_parallel_rank() == 0:
        assert iterator is not None
        sample = next(iterator)
        if segments:
            sample, work = join_rows(sample)
            longest = int(sample["max_seqlen"])
            # Made here, so not in the loader's pinned memory; copying from other memory may wait for the GPU.
            sample |= {name: sample[name].pin_memory() for name in SEGMENT_FIELDS}
        kept = fields_of_stage(args, vp_stage)
        encoded = mask_token_id is not None and "loss_mask" in kept
        copied = [*kept, "tokens"] if encoded else kept
        batch |= {k: v.cuda(non_blocking=True) for k in copied if (v := sample.get(k)) is not None}
        if encoded:
            # After the copy, for the same reason.
            batch["loss_mask"] = encode(batch["loss_mask"], batch["tokens"], mask_token_id, of_target=args.meap_is_sft)
            if "tokens" not in kept:
                batch["tokens"] = None
    if mpu.get_tensor_model_parallel_world_size() > 1:
        rows = micro_batch_size if not segments else 1
        batch = get_batch_on_this_tp_rank(
            batch,
            has_cu_seqlens=segments,
            is_hybrid_cp=False,
            create_attention_mask_in_dataloader=args.create_attention_mask_in_dataloader and not segments,
            broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
            broadcast_group=mpu.get_tensor_model_parallel_group(),
            cp_size=args.context_parallel_size,
            tp_rank=mpu.get_tensor_model_parallel_rank(),
            micro_batch_size=rows,
            seq_length=args.seq_length * (micro_batch_size // rows),
            mtp_on_this_rank=False,
            pipeline_model_parallel_size=args.pipeline_model_parallel_size,
            is_pipeline_first_stage=is_first(vp_stage),
            is_pipeline_last_stage=is_last(vp_stage),
        )
    packed = None
    if segments:
        packed = packed_params(batch["cu_seqlens"], longest or int(batch["max_seqlen"]))
    if args.context_parallel_size > 1:
        # Documents are rarely a multiple of 2 * CP tokens, so rows are split as a whole.
        batch = get_batch_on_this_cp_rank(
            batch,
            is_hybrid_cp=False,
            cp_group=mpu.get_context_parallel_group(),
            use_per_sequence_balancing=segments,
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
        work=work,
    )


def fields_of_stage(args: Any, vp_stage: int | None) -> list[str]:
    """Return the fields that this (virtual) stage reads."""
    first, last = is_first(vp_stage), is_last(vp_stage)
    fields = [*(FIRST_FIELDS if first else ()), *(LAST_FIELDS if last else ())]
    if has_segments(args):
        fields += SEGMENT_FIELDS
    elif first or last:
        fields.append("attention_mask")
    return fields
