"""The forward step and the loss that Megatron's schedules call: next-token loss with weights, reported in parts.

The MEAP loss is the NTP loss: the mean over all positions whose loss weight is not zero, changed inputs or not (protocol
1.1); `meap_loss_on` and pairs weigh positions otherwise. Beside it the same sums over changed and over other positions are
reported; Megatron adds up numerators and denominators over micro-batches and data-parallel ranks, so the values are exact
means on every layout.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.utils import get_attr_wrapped_model

from meap_megatron.masking.loss import LossOn
from meap_megatron.masking.ratio import masks_anything
from meap_megatron.training.batch import (
    CHANGED_INPUT,
    CHANGED_TARGET,
    MASKED_ROW,
    OPENS_TEXT,
    Batch,
    BatchSettings,
    get_batch,
    is_first,
    is_last,
)
from meap_megatron.training.evaluation_precision import bf16_in_evaluation
from meap_megatron.training.text_bytes import TextBytes, text_bytes
from meap_megatron.training.trace import BatchTrace
from meap_megatron.training.work import STEP


def position_weights(marks: torch.Tensor, loss: LossOn) -> torch.Tensor:
    """Return float32[b, s]: the whole-number weight of each position of a training step.

    Args:
        marks: uint8[b, s], see `batch`.
    """
    changed = (marks & (CHANGED_TARGET if loss.of_target else CHANGED_INPUT)) > 0
    in_masked_row = (marks & MASKED_ROW) > 0
    clean_row, masked_row = loss.row_weights
    weights = loss.unchanged + (loss.changed - loss.unchanged) * changed.float()
    return weights * (clean_row + (masked_row - clean_row) * in_masked_row.float())


def token_losses(
    losses: torch.Tensor,
    loss_mask: torch.Tensor,
    masked: torch.Tensor | None,
    *,
    weights: torch.Tensor | None = None,
    report_fractions: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sum per-token losses and report them in parts.

    Args:
        losses: float[b, s], cross-entropy of each position in nats.
        loss_mask: float32[b, s], in [0, 1], of the data.
        masked: bool[b, s], changed positions, which are reported apart from the others; None: they are not.
        weights: float32[b, s], whole numbers by which loss_mask is multiplied in the loss; None for 1.
        report_fractions: whether to report which share of the positions is masked, and trained.

    Returns:
        (sum of the weighted losses, sum of the weights as int32, report); each entry of the report is float32[2],
        a numerator and a denominator.
    """
    plain, each = loss_mask.reshape(-1).float(), losses.reshape(-1).float()
    trained = plain if weights is None else plain * weights.reshape(-1)
    total, count = (each * trained).sum(), trained.sum()
    positions = torch.full((), float(plain.numel()), device=plain.device)  # torch.tensor would wait for the GPU
    report = {"lm loss": torch.stack([total.detach(), count])}
    if masked is not None:
        flags = masked.reshape(-1)
        detached = each.detach() * plain
        masked_total, masked_count = (detached * flags).sum(), (plain * flags).sum()
        report["masked loss"] = torch.stack([masked_total, masked_count])
        report["other loss"] = torch.stack([detached.sum() - masked_total, plain.sum() - masked_count])
        if report_fractions:
            report["mask fraction"] = torch.stack([flags.float().sum(), positions])
    if report_fractions:
        report["trained fraction"] = torch.stack(
            [(trained > 0).float().sum() if weights is not None else count, positions]
        )
    return total, count.detach().to(torch.int), report


def loss_function(
    loss_mask: torch.Tensor,
    masked: torch.Tensor | None,
    weights: torch.Tensor | None,
    output: torch.Tensor,
    *,
    report_fractions: bool,
    check_finite: bool,
    bits: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Reduce the model's per-token losses and let Megatron's rerun machine look for NaN and Inf.

    `bits` returns bits and bytes of the losses.
    """
    total, count, report = token_losses(output, loss_mask, masked, weights=weights, report_fractions=report_fractions)
    if bits is not None:
        report["bits per byte"] = bits(output.detach())
    if check_finite:
        rerun = get_rerun_state_machine()
        for rejected, name in ((torch.isnan, "NaN"), (torch.isinf, "Inf")):
            rerun.validate_result(
                result=total,
                rejection_func=rejected,
                message=f"{name} in the forward loss of this rank",
                tolerance=0.0,
                fatal=True,
            )
    return total, count, report


def bits_of(sizes: TextBytes, batch: Batch, losses: torch.Tensor) -> torch.Tensor:
    """Return bits and bytes of a micro-batch, float32[2], on the stage that computes the loss."""
    assert batch.labels is not None and batch.loss_mask is not None and batch.marks is not None
    return sizes.bits(losses, batch.labels, batch.loss_mask, (batch.marks & OPENS_TEXT) > 0)


@dataclass(frozen=True, kw_only=True)
class StepSettings(BatchSettings):
    """What decides a step and its loss, under the names of Megatron's parser and of `launch.arguments`."""

    micro_batch_size: int
    eval_micro_batch_size: int
    meap_mask_ratio: float | str
    meap_mask_validation: bool
    meap_loss_on: str
    meap_pair_weight: float
    check_for_nan_in_loss_and_grad: bool


def make_forward_step(
    settings: StepSettings, *, is_sft: bool, prefixes: list[str], trace: BatchTrace | None = None
) -> Callable[..., Any]:
    """Return the `forward_step_func` for `pretrain`.

    Args:
        prefixes: of the data, whose text validation measures in bytes.
        trace: is told about every micro-batch.
    """
    masks_training = masks_anything(settings.meap_mask_ratio)
    masks_evaluation = masks_training and settings.meap_mask_validation
    # In fine-tuning a "masked" position is one that predicts a masked token: those are what the copy trains.
    reported = CHANGED_TARGET if is_sft else CHANGED_INPUT
    loss = LossOn.parse(settings.meap_loss_on, pair_weight=settings.meap_pair_weight)
    sizes_of_data = cache(partial(text_bytes, prefixes))

    def forward_step(data_iterator: Iterator[Any] | None, model: Any, *unused: Any) -> tuple[torch.Tensor, Any]:
        del unused
        training = bool(model.training)
        vp_stage = get_attr_wrapped_model(model, "vp_stage")
        # Of clean text only: what a model makes of masked inputs does not measure the text.
        of_text = not training and not masks_evaluation and is_last(vp_stage)
        sizes: TextBytes | None = sizes_of_data() if of_text else None
        batch = get_batch(
            data_iterator,
            settings=settings,
            vp_stage=vp_stage,
            micro_batch_size=settings.micro_batch_size if training else settings.eval_micro_batch_size,
            marked=masks_training or not training,
            ends_text=None if sizes is None else sizes.ends_text(),
        )
        if trace is not None:
            trace.record(batch, training=training)
        if training and batch.work is not None and is_first(vp_stage):
            STEP.add(batch.work)
        with bf16_in_evaluation(model):
            output = model(
                batch.tokens,
                batch.position_ids,
                batch.attention_mask,
                labels=batch.labels,
                packed_seq_params=batch.packed,
            )
        marks = batch.marks if (masks_training if training else masks_evaluation) else None
        reduce = partial(
            loss_function,
            batch.loss_mask,
            None if marks is None else (marks & reported) > 0,
            position_weights(marks, loss) if training and marks is not None and not loss.is_plain else None,
            report_fractions=training,
            check_finite=settings.check_for_nan_in_loss_and_grad,
            bits=None if sizes is None else partial(bits_of, sizes, batch),
        )
        return output, reduce

    return forward_step
