"""Mamba-2 layers of torch compute the recurrence, by segment, and what transformers computes with the same weights."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from meap_megatron.launch import megatron_import

megatron_import.import_megatron()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402
from megatron.core.ssm import mamba_mixer  # noqa: E402
from megatron.core.ssm.mamba_mixer import MambaMixerSubmodules  # noqa: E402
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from meap_megatron.training.batch import packed_params  # noqa: E402
from meap_megatron.training.patches.on_cpu import CPU  # noqa: E402
from meap_megatron.training.torch_mamba import TorchMambaMixer, causal_convolution, scan  # noqa: E402

HEADS, SIZE, GROUPS, STATE, LENGTH, WIDTH = 4, 3, 2, 5, 11, 4
SEGMENTS = [0, 0, 0, 1, 1, 1, 1, 1, 1, 4, 4]
"""Segment 1 is longer than a chunk of 4, and begins inside of one."""


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def one_by_one(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, segments: list[int]
) -> torch.Tensor:
    """The recurrence, position by position and head by head."""
    rows = []
    for row in range(x.size(0)):
        heads = []
        for head in range(HEADS):
            group, state, outputs = head // (HEADS // GROUPS), torch.zeros(SIZE, STATE, dtype=x.dtype), []
            for t in range(x.size(1)):
                if t and segments[t] != segments[t - 1]:
                    state = torch.zeros_like(state)
                step = dt[row, t, head]
                state = torch.exp(step * A[head]) * state + step * torch.outer(x[row, t, head], B[row, t, group])
                outputs.append(state @ C[row, t, group])
            heads.append(torch.stack(outputs))
        rows.append(torch.stack(heads, dim=1))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one segment", "segments"])
def test_the_scan_is_the_recurrence_and_so_are_its_gradients(chunk: int, segments: list[int] | None) -> None:
    inputs = [
        normal(2, LENGTH, HEADS, SIZE, seed=1),
        normal(2, LENGTH, HEADS, seed=2).exp(),
        -normal(HEADS, seed=3).exp(),
        normal(2, LENGTH, GROUPS, STATE, seed=4),
        normal(2, LENGTH, GROUPS, STATE, seed=5),
    ]
    for one in inputs:
        one.requires_grad_()
    numbers = None if segments is None else torch.tensor([segments])
    both = scan(*inputs, numbers, chunk=chunk), one_by_one(*inputs, segments or [0] * LENGTH)
    torch.testing.assert_close(both[0], both[1], rtol=1e-10, atol=1e-12)
    weights = normal(*both[0].shape, seed=6)
    for got, wanted in zip(*(torch.autograd.grad(out, inputs, weights) for out in both), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


def test_a_state_that_decays_fast_gives_no_infinities() -> None:
    x = torch.ones(1, 200, 1, 1, requires_grad=True)
    out = scan(
        x, torch.full((1, 200, 1), 50.0), torch.tensor([-16.0]), torch.ones(1, 200, 1, 1), torch.ones(1, 200, 1, 1)
    )
    out.sum().backward()
    assert torch.allclose(out, torch.full_like(out, 50.0)) and torch.isfinite(x.grad).all()


def test_the_convolution_looks_back_to_the_begin_of_its_segment() -> None:
    x, weight, bias = normal(2, LENGTH, 6, seed=1), normal(6, WIDTH, seed=2), normal(6, seed=3)
    whole = torch.nn.functional.conv1d(x.mT, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=6)[..., :LENGTH].mT
    torch.testing.assert_close(causal_convolution(x, weight, bias), whole)
    parts = [causal_convolution(x[:, a:b], weight, bias) for a, b in ((0, 3), (3, 9), (9, 11))]
    torch.testing.assert_close(causal_convolution(x, weight, bias, torch.tensor([SEGMENTS])), torch.cat(parts, dim=1))


@pytest.fixture
def mixer(monkeypatch: pytest.MonkeyPatch) -> Iterator[TorchMambaMixer]:
    """Megatron's mixer of 4 heads in 2 groups on a CPU, as a run without GPU builds it."""
    for entry in CPU:
        if "megatron.core.ssm.mamba" in entry.target:
            owner, name = entry.locate()
            monkeypatch.setattr(owner, name, entry.make(getattr(owner, name)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(mamba_mixer, "get_cuda_rng_tracker", lambda: SimpleNamespace(fork=contextlib.nullcontext))
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        torch.manual_seed(1)
        settings = TransformerConfig(
            num_layers=2,
            hidden_size=8,
            num_attention_heads=2,
            use_cpu_initialization=True,
            add_bias_linear=False,
            init_method_std=0.3,
            mamba_state_dim=STATE,
            mamba_head_dim=4,
            mamba_num_groups=GROUPS,
        )
        yield TorchMambaMixer(
            settings,
            MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear),
            d_model=8,
            layer_number=1,
            pg_collection=ProcessGroupCollection.use_mpu_process_groups(),
        )
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def test_with_the_same_weights_it_is_the_mixer_of_transformers(mixer: TorchMambaMixer) -> None:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.nn.init.normal_(mixer.norm.weight)
    torch.nn.init.normal_(mixer.D)
    config = Mamba2Config(
        num_heads=4, head_dim=4, hidden_size=8, state_size=STATE, n_groups=GROUPS, expand=2, conv_kernel=WIDTH
    )
    theirs = Mamba2Mixer(config, layer_idx=0)
    names = {"conv1d_weight": "conv1d.weight", "conv1d_bias": "conv1d.bias"}
    weights = {names.get(name, name): value for name, value in mixer.named_parameters()}
    theirs.load_state_dict(weights)
    x = torch.randn(150, 2, 8, generator=torch.Generator().manual_seed(2))
    got, bias = mixer(x)
    assert bias is None
    torch.testing.assert_close(got.transpose(0, 1), theirs(x.transpose(0, 1)), rtol=1e-4, atol=1e-5)


def test_packed_segments_are_the_segments_one_by_one(mixer: TorchMambaMixer) -> None:
    x = torch.randn(150, 1, 8, generator=torch.Generator().manual_seed(2))
    bounds = torch.tensor([[0, 70, 71, 71, 150]], dtype=torch.int32)
    packed: PackedSeqParams = packed_params(bounds, 79, numbered=150)
    assert packed.seq_idx.dtype == torch.int32 and packed.seq_idx.shape == (1, 150)  # as the CUDA kernels want it
    got, _ = mixer(x, packed_seq_params=packed)
    alone = torch.cat([mixer(x[a:b])[0] for a, b in ((0, 70), (70, 71), (71, 150))])
    torch.testing.assert_close(got, alone, rtol=1e-5, atol=1e-6)


def test_parameters_have_the_order_in_which_megatron_makes_them(mixer: TorchMambaMixer) -> None:
    assert [name for name, _ in mixer.named_parameters()] == [
        *("conv1d_weight", "conv1d_bias", "dt_bias", "A_log", "D"),
        *("in_proj.weight", "norm.weight", "out_proj.weight"),
    ]
