"""The forward step and the loss that Megatron's schedules call: plain next-token loss, reported in parts.

The MEAP loss is the NTP loss: the mean over all positions whose loss weight is not zero, masked inputs or not
(protocol 1.1). Beside it the same sums over masked and over other positions are reported; Megatron adds up numerators
and denominators over micro-batches and data-parallel ranks, so the values are exact means on every layout.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.utils import get_attr_wrapped_model

from meap_megatron.training.batch import get_batch, is_first
from meap_megatron.training.evaluation_precision import bf16_in_evaluation
from meap_megatron.training.trace import BatchTrace
from meap_megatron.training.work import STEP


def token_losses(
    losses: torch.Tensor,
    loss_mask: torch.Tensor,
    masked: torch.Tensor,
    *,
    report_masked: bool,
    report_fractions: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sum per-token losses and report them in parts.

    Args:
        losses: float[b, s], cross-entropy of each position in nats.
        loss_mask: float32[b, s], weights in [0, 1].
        masked: bool[b, s], positions whose input is `[MASK]`.
        report_masked: whether to report masked and other positions apart.
        report_fractions: whether to report which share of the positions is masked, and trained.

    Returns:
        (sum of the weighted losses, sum of the weights as int32, report); each entry of the report is float32[2],
        a numerator and a denominator.
    """
    weights = loss_mask.reshape(-1).float()
    weighted = losses.reshape(-1).float() * weights
    total, count = weighted.sum(), weights.sum()
    detached = weighted.detach()
    positions = torch.full((), float(weights.numel()), device=weights.device)  # torch.tensor would wait for the GPU
    report = {"lm loss": torch.stack([total.detach(), count])}
    if report_masked:
        flags = masked.reshape(-1)
        masked_total, masked_count = (detached * flags).sum(), (weights * flags).sum()
        report["masked loss"] = torch.stack([masked_total, masked_count])
        report["other loss"] = torch.stack([total.detach() - masked_total, count - masked_count])
        if report_fractions:
            report["mask fraction"] = torch.stack([flags.float().sum(), positions])
    if report_fractions:
        report["trained fraction"] = torch.stack([count, positions])
    return total, count.detach().to(torch.int), report


def loss_function(
    loss_mask: torch.Tensor,
    masked: torch.Tensor,
    output: torch.Tensor,
    *,
    report_masked: bool,
    report_fractions: bool,
    check_finite: bool,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Reduce the model's per-token losses and let Megatron's rerun machine look for NaN and Inf."""
    total, count, report = token_losses(
        output, loss_mask, masked, report_masked=report_masked, report_fractions=report_fractions
    )
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


def make_forward_step(args: Any, *, mask_token_id: int | None) -> Callable[..., Any]:
    """Return the `forward_step_func` for `pretrain`.

    Args:
        args: Megatron's arguments.
        mask_token_id: id of `[MASK]`; None if nothing is ever masked.
    """
    report_in_training = args.meap_mask_ratio > 0.0
    report_in_evaluation = report_in_training and args.meap_mask_validation
    trace = BatchTrace(args.meap_trace, rank=args.rank) if args.meap_trace else None

    def forward_step(data_iterator: Iterator[Any] | None, model: Any, *unused: Any) -> tuple[torch.Tensor, Any]:
        del unused
        training = bool(model.training)
        vp_stage = get_attr_wrapped_model(model, "vp_stage")
        batch = get_batch(
            data_iterator,
            args=args,
            vp_stage=vp_stage,
            micro_batch_size=args.micro_batch_size if training else args.eval_micro_batch_size,
            mask_token_id=mask_token_id,
        )
        if trace is not None:
            trace.record(batch, step=args.curr_iteration + 1, training=training)
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
        reduce = partial(
            loss_function,
            batch.loss_mask,
            batch.masked,
            report_masked=report_in_training if training else report_in_evaluation,
            report_fractions=training,
            check_finite=args.check_for_nan_in_loss_and_grad,
        )
        return output, reduce

    return forward_step
