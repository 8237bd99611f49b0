"""Between the loader and the loss nothing makes the host wait for the GPU: masking costs no more than plain prediction."""

import pytest
import torch
from megatron.core import mpu
from torch.utils.data import default_collate

from meap_megatron.masking.loss import LossOn
from meap_megatron.training import batch as batches
from meap_megatron.training import step
from tests.support.device import OnDevice, counting_device

MASK, LENGTH = 9, 16
ROWS = {"bounds": [[0, 5, 12, 16], [0, 16]], "real": [2, 1]}
"""Two rows; the last segment of the first is padding."""


def sample(*, packed: bool) -> dict[str, torch.Tensor]:
    fields = {
        "tokens": torch.tensor([[1, MASK, 3, 4] * 4, [MASK, 2, 3, 4] * 4]),
        "labels": torch.tensor([[1, 2, 3, 4] * 4] * 2),
        "loss_mask": 1 + 2.0 * torch.tensor([[0, 1, 0, 0] * 4, [1, 0, 0, 0] * 4]),
        "position_ids": torch.arange(LENGTH).repeat(2, 1),
    }
    if packed:
        padded = [row + [LENGTH] * (LENGTH + 1 - len(row)) for row in ROWS["bounds"]]
        fields["cu_seqlens"] = torch.tensor(padded, dtype=torch.int32)
        fields["max_seqlen"] = torch.tensor([7, 16], dtype=torch.int32)
        fields["num_segments"] = torch.tensor(ROWS["real"], dtype=torch.int32)
    return fields


def one_process(patch: pytest.MonkeyPatch) -> None:
    for name in ("get_tensor_model_parallel_rank", "get_pipeline_model_parallel_rank"):
        patch.setattr(mpu, name, lambda *args, **kwargs: 0)
    for name in ("is_pipeline_first_stage", "is_pipeline_last_stage"):
        patch.setattr(mpu, name, lambda *args, **kwargs: True)
    patch.setattr(mpu, "get_tensor_model_parallel_world_size", lambda: 1)


def batch_settings(*, packed: bool) -> batches.BatchSettings:
    return batches.BatchSettings(
        dataloader_inter_document_masking=packed,
        context_parallel_size=1,
        pipeline_model_parallel_size=1,
        create_attention_mask_in_dataloader=False,
        seq_length=LENGTH,
        hybrid_layer_pattern=None,
    )


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("marked", [True, False], ids=["meap", "ntp"])
@pytest.mark.parametrize("loss_on", ["all", "masked=0.5,unmasked=1"])
def test_the_host_never_waits_for_the_device(
    monkeypatch: pytest.MonkeyPatch, packed: bool, marked: bool, loss_on: str
) -> None:
    one_process(monkeypatch)
    with monkeypatch.context() as patch:
        pinned, waits = counting_device(patch)
        read = {name: pinned.pin(field) for name, field in sample(packed=packed).items()}
        batch = batches.get_batch(
            iter([read]), settings=batch_settings(packed=packed), vp_stage=None, micro_batch_size=2, marked=marked
        )
        losses = torch.full(batch.labels.shape, 2.0, device="cuda")
        weights = step.position_weights(batch.marks, LossOn.parse(loss_on)) if marked else None
        masked = (batch.marks & 1) > 0 if marked else None
        total, count, report = step.token_losses(losses, batch.loss_mask, masked, weights=weights)
        assert waits == []
        on_device = [batch.tokens, batch.labels, batch.loss_mask, total, count, *report.values()]
        if packed:
            on_device.append(batch.packed.cu_seqlens_q)
            assert type(batch.packed.max_seqlen_q) is int
        assert all(isinstance(tensor, OnDevice) for tensor in on_device)


def test_what_waits_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        pinned, waits = counting_device(patch)
        there = pinned.pin(torch.ones(3)).cuda(non_blocking=True)
        assert waits == []
        (torch.ones(3) + 1).cuda(non_blocking=True)
        there.sum().item()
        int(there.max())
        bool(there[0] > 0)
        there[there > 0]
        torch.tensor(1.0, device="cuda")
        assert waits == [
            "copy of memory that is not pinned",
            "item",
            "__int__",
            "__bool__",
            "__getitem__",
            "torch.tensor on the device",
        ]


def test_rows_of_a_micro_batch_are_laid_end_to_end_and_padding_is_no_work() -> None:
    joined, work = batches.join_rows(sample(packed=True))
    assert joined["cu_seqlens"].tolist() == [[0, 5, 12, 16, 32]]
    assert (joined["cu_seqlens"].dtype, joined["max_seqlen"].tolist()) == (torch.int32, [16])
    assert joined["tokens"].tolist() == [[1, MASK, 3, 4] * 4 + [MASK, 2, 3, 4] * 4]
    assert joined["position_ids"].tolist() == [[*range(16), *range(16)]]
    assert (work.tokens, work.squares) == (5 + 7 + 16, 25 + 49 + 256)


def test_without_padding_every_segment_is_work() -> None:
    fields = sample(packed=True)
    del fields["num_segments"]
    _, work = batches.join_rows(default_collate([{name: field[0] for name, field in fields.items()}]))
    assert (work.tokens, work.squares) == (16, 25 + 49 + 16)


def test_packed_segments_are_described_without_padding_between_them() -> None:
    bounds = torch.tensor([[0, 5, 16]], dtype=torch.int32)
    packed = batches.packed_params(bounds, 11)
    assert (packed.qkv_format, packed.max_seqlen_q, packed.pad_between_seqs) == ("thd", 11, False)
    assert packed.cu_seqlens_q is packed.cu_seqlens_kv_padded
