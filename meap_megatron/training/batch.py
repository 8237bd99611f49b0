"""What each rank's forward pass needs, with the marks of changed positions on board.

Megatron hands the last pipeline stage labels and loss mask, not tokens, and broadcasts a fixed set of fields to the other
tensor-parallel ranks. So the dataset adds to the loss mask which inputs it changed (`datasets.mask_stage.mark_changes`), and
every rank takes the marks out again: weights lie in [0, 1] and marks are even, so both are read back exactly.

Given  loss_mask = [1, 1, 0, 0], of which inputs 1 and 3 are changed
then   marked = [5, 3, 4, 2] -> loss_mask = [1, 1, 0, 0], marks = [2, 1, 2, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import mpu
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.utils import get_batch_on_this_cp_rank, get_batch_on_this_tp_rank

from meap_megatron.training.work import SegmentWork

FIRST_FIELDS = ("tokens", "position_ids")
"""What the first pipeline stage reads."""
LAST_FIELDS = ("labels", "loss_mask")
"""What the last pipeline stage reads."""
SEGMENT_FIELDS = ("cu_seqlens", "max_seqlen")
FIELDS = (*FIRST_FIELDS, *LAST_FIELDS, "attention_mask", *SEGMENT_FIELDS)
UNUSED_FIELDS = ("cu_seqlens_padded", "local_cp_size")
"""Read by Megatron's broadcast with context parallel, and not used here."""
CHANGED_INPUT, CHANGED_TARGET, MASKED_ROW, OPENS_TEXT = 1, 2, 4, 8
"""Bits of a mark: the input was changed; the label was changed in the input; the row is the masked one of a pair; the label
is the first token of a text (evaluation only)."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What decides the fields of a micro-batch and their shapes, under the names of Megatron's parser."""

    seq_length: int
    context_parallel_size: int
    pipeline_model_parallel_size: int
    create_attention_mask_in_dataloader: bool
    dataloader_inter_document_masking: bool
    """Samples carry the bounds of their segments, `cu_seqlens`."""
    hybrid_layer_pattern: str | None


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
    marks: torch.Tensor | None
    """uint8[b, s], bits `CHANGED_INPUT`, `CHANGED_TARGET`, `MASKED_ROW` and `OPENS_TEXT`; None where there are none."""
    packed: PackedSeqParams | None
    """Bounds of the segments, with inter-document masking or packed rows; then b is 1."""
    work: SegmentWork | None = None
    """Of the segments, on the rank that read them."""


def decode(marked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a marked loss mask, float32[b, s], into weights float32[b, s] in [0, 1] and marks uint8[b, s]."""
    marks = torch.floor(marked / 2)
    return marked - 2 * marks, marks.to(torch.uint8)


def join_rows(sample: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], SegmentWork]:
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
    work = SegmentWork(tokens=int(lengths.sum()), squares=int(lengths.square().sum()))
    fields = {name: sample[name].reshape(1, -1) for name in (*FIRST_FIELDS, *LAST_FIELDS) if name in sample}
    return fields | {"cu_seqlens": joined[None], "max_seqlen": longest[None]}, work


def packed_params(cu_seqlens: torch.Tensor, longest: int, *, numbered: int | None = None) -> PackedSeqParams:
    """Describe segments of at most `longest` positions with int32 bounds `cu_seqlens[1, segments + 1]` in the THD format.

    Args:
        cu_seqlens: the bounds.
        longest: positions of the longest segment.
        numbered: positions of all segments; then each gets the number of its segment, without which Mamba-2 layers would
            carry their state from one segment into the next.
    """
    bounds = cu_seqlens.squeeze(0)
    numbers = None
    if numbered is not None:
        positions = torch.arange(numbered, dtype=bounds.dtype, device=bounds.device)
        numbers = (torch.searchsorted(bounds, positions, right=True, out_int32=True) - 1)[None]
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
        seq_idx=numbers,
    )


def reads_data(segments: bool, vp_stage: int | None = None) -> bool:
    """Tell whether this rank opens the dataset: tensor-parallel rank 0 of every stage that needs a field of it."""
    return mpu.get_tensor_model_parallel_rank() == 0 and stage_needs_data(segments, vp_stage)


def stage_needs_data(segments: bool, vp_stage: int | None) -> bool:
    """Tell whether this (virtual) stage uses any field: the first, the last, and all of them with packed segments."""
    return segments or is_first(vp_stage) or is_last(vp_stage)


def is_first(vp_stage: int | None) -> bool:
    """Tell whether this (virtual) stage holds the embedding."""
    return mpu.is_pipeline_first_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage)


def is_last(vp_stage: int | None) -> bool:
    """Tell whether this (virtual) stage computes the loss."""
    return mpu.is_pipeline_last_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage)


def get_batch(
    iterator: Iterator[dict[str, torch.Tensor]] | None,
    *,
    settings: BatchSettings,
    vp_stage: int | None,
    micro_batch_size: int,
    marked: bool,
    ends_text: torch.Tensor | None = None,
) -> Batch:
    """Read a micro-batch on tensor-parallel rank 0, broadcast it, and keep what this rank needs.

    Args:
        iterator: yields the collated samples; None on ranks that read no data.
        vp_stage: index of the virtual stage, None without interleaving.
        micro_batch_size: samples in this micro-batch (evaluation may have its own).
        ends_text: bool[V], ids after which a text begins: labels that follow one are marked with `OPENS_TEXT`. The inputs,
            which tell, are only on the rank that reads; None: nothing is marked so.
    """
    nothing = dict.fromkeys(FIELDS)
    segments = settings.dataloader_inter_document_masking
    if not stage_needs_data(segments, vp_stage):
        return Batch(**{k: nothing.get(k) for k in Batch.__annotations__})
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
        if ends_text is not None:
            opens = ends_text.to(sample["tokens"].device)[sample["tokens"]]
            sample = {**sample, "loss_mask": sample["loss_mask"] + 2 * OPENS_TEXT * opens}
        kept = fields_of_stage(segments, vp_stage)
        batch |= {k: v.cuda(non_blocking=True) for k in kept if (v := sample.get(k)) is not None}
    if mpu.get_tensor_model_parallel_world_size() > 1:
        rows = micro_batch_size if not segments else 1
        batch = get_batch_on_this_tp_rank(
            batch,
            has_cu_seqlens=segments,
            is_hybrid_cp=False,
            create_attention_mask_in_dataloader=settings.create_attention_mask_in_dataloader and not segments,
            broadcast_src_rank=mpu.get_tensor_model_parallel_src_rank(),
            broadcast_group=mpu.get_tensor_model_parallel_group(),
            cp_size=settings.context_parallel_size,
            tp_rank=mpu.get_tensor_model_parallel_rank(),
            micro_batch_size=rows,
            seq_length=settings.seq_length * (micro_batch_size // rows),
            mtp_on_this_rank=False,
            pipeline_model_parallel_size=settings.pipeline_model_parallel_size,
            is_pipeline_first_stage=is_first(vp_stage),
            is_pipeline_last_stage=is_last(vp_stage),
        )
    packed = None
    if segments:
        recurrent = "M" in (settings.hybrid_layer_pattern or "")
        packed = packed_params(
            batch["cu_seqlens"],
            longest or int(batch["max_seqlen"]),
            numbered=settings.seq_length * micro_batch_size if recurrent else None,
        )
    if settings.context_parallel_size > 1:
        # Documents are rarely a multiple of 2 * CP tokens, so rows are split as a whole.
        batch = get_batch_on_this_cp_rank(
            batch,
            is_hybrid_cp=False,
            cp_group=mpu.get_context_parallel_group(),
            use_per_sequence_balancing=segments,
        )
    loss_mask, marks = batch.get("loss_mask"), None
    if marked and loss_mask is not None:
        loss_mask, marks = decode(loss_mask)
    return Batch(
        tokens=batch.get("tokens"),
        labels=batch.get("labels"),
        position_ids=batch.get("position_ids"),
        attention_mask=batch.get("attention_mask"),
        loss_mask=loss_mask,
        marks=marks,
        packed=packed,
        work=work,
    )


def fields_of_stage(segments: bool, vp_stage: int | None) -> list[str]:
    """Return the fields that this (virtual) stage reads."""
    first, last = is_first(vp_stage), is_last(vp_stage)
    fields = [*(FIRST_FIELDS if first else ()), *(LAST_FIELDS if last else ())]
    if segments:
        fields += SEGMENT_FIELDS
    elif first or last:
        fields.append("attention_mask")
    return fields
