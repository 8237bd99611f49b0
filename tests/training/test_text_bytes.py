"""Validation in bits per byte: the bytes of what is predicted, whatever the tokenizer, on every layout."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from meap_megatron.cli.main import main
from meap_megatron.indexed.pair import open_pair
from meap_megatron.training import batch as batches
from meap_megatron.training.text_bytes import TextBytes, text_bytes
from tests.corpus.conftest import llama_model  # noqa: F401
from tests.support.device import counting_device
from tests.training.test_host_waits import batch_settings, one_process

SIZES = TextBytes(
    inside=torch.tensor([0, 4, 3, 1], dtype=torch.int32), first=torch.tensor([0, 3, 3, 0], dtype=torch.int32)
)
"""Id 0 is special, 1 is " the", 2 is "cat", 3 the space alone."""


def test_bits_and_bytes_are_of_text_that_is_trained() -> None:
    losses = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
    labels = torch.tensor([[1, 2, 0, 3, 2]])
    loss_mask = torch.tensor([[1.0, 0.5, 1.0, 1.0, 0.0]])
    opens = torch.tensor([[True, False, False, True, False]])
    bits, size = SIZES.bits(losses, labels, loss_mask, opens).tolist()
    # The special token and the position without weight are left out; the space of the tokenizer costs bits and is no byte.
    assert bits * math.log(2) == pytest.approx(1 + 2 + 8) and size == 3 + 3 + 0
    assert SIZES.bits(losses, labels, loss_mask, None)[1] == 4 + 3 + 1
    # Losses of another form, as packed rows and context parallel hand them over.
    assert torch.equal(SIZES.bits(losses.T, labels, loss_mask, opens), SIZES.bits(losses, labels, loss_mask, opens))


def test_the_rank_that_reads_marks_where_a_text_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    one_process(monkeypatch)
    fields = {
        "tokens": torch.tensor([[0, 1, 2, 0]]),
        "labels": torch.tensor([[1, 2, 0, 1]]),
        "loss_mask": torch.tensor([[1.0, 3.0, 0.5, 0.0]]),
        "position_ids": torch.arange(4)[None],
    }
    found = []
    with monkeypatch.context() as patch:
        counting_device(patch)
        for ends in (SIZES.ends_text(), None):
            batch = batches.get_batch(
                iter([dict(fields)]),
                settings=batch_settings(packed=False),
                vp_stage=None,
                micro_batch_size=1,
                marked=True,
                ends_text=ends,
            )
            found.append((batch.loss_mask.tolist(), batch.marks.tolist()))
    assert found[0] == ([[1.0, 1.0, 0.5, 0.0]], [[8, 1, 0, 8]])
    assert found[1] == ([[1.0, 1.0, 0.5, 0.0]], [[0, 1, 0, 0]])
    assert TextBytes(inside=SIZES.inside, first=SIZES.inside).ends_text() is None


def test_the_bytes_of_a_dataset_are_those_of_its_texts(
    tmp_path: Path,
    llama_model: Path,  # noqa: F811
) -> None:
    texts = ["The cat sat.", "\n naïve 日本語 🙂 e\u0301", "1"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["preprocess", "text", str(tmp_path / "texts.jsonl"), "--tokenizer", str(llama_model)]
    assert main([*words, "--output", str(tmp_path / "data")]) == 0
    sizes = text_bytes([str(tmp_path / "data")])
    assert sizes is not None
    row = torch.from_numpy(np.asarray(open_pair(str(tmp_path / "data")).tokens, dtype=np.int64))[None]
    ends: Any = sizes.ends_text()
    losses = torch.full((1, row.shape[1] - 1), math.log(32_001))
    found = sizes.bits(losses, row[:, 1:], torch.ones_like(losses), ends[row[:, :-1]])
    num_text = int((sizes.inside[row] > 0).sum())
    assert found[1] == sum(len(text.encode()) for text in texts)
    assert found[0].item() == pytest.approx(num_text * math.log2(32_001), rel=1e-6)
    (tmp_path / "data.tokenizer" / "tokenizer.json").unlink()
    lost = text_bytes([str(tmp_path / "data")])
    assert lost is not None and lost.bits(losses, row[:, 1:], torch.ones_like(losses), None).tolist() == [0, 0]
    assert text_bytes([]) is None
