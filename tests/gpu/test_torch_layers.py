"""The kernels of the torch-only path on a card: numbers of float64, segments apart, and no waiting for the GPU."""

import contextlib

import pytest
import torch

DEVICE = "cuda"
HEADS, GROUPS, SIZE = 4, 2, 64
BOUNDS = [0, 3, 100, 101, 256]
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@contextlib.contextmanager
def no_waiting():
    """Let torch raise where the host would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def qkv(dtype, *shape):
    generator = torch.Generator().manual_seed(1)
    made = [
        torch.randn(*shape, heads, SIZE, generator=generator, dtype=torch.float64) for heads in (HEADS, GROUPS, GROUPS)
    ]
    return [x.to(dtype).double() for x in made]


def reference(query, key, value):
    """Return causal attention of [s, h, d] and twice [s, g, d] in float64, written out."""
    key, value = (x.repeat_interleave(HEADS // GROUPS, dim=1) for x in (key, value))
    scores = torch.einsum("shd,thd->hst", query, key) / SIZE**0.5
    forbidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.einsum("hst,thd->shd", scores.masked_fill(forbidden, float("-inf")).softmax(-1), value)


def packed_params():
    from megatron.core.packed_seq_params import PackedSeqParams

    bounds = torch.tensor(BOUNDS, dtype=torch.int32, device=DEVICE)
    longest = max(b - a for a, b in zip(BOUNDS[:-1], BOUNDS[1:], strict=True))
    return PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=longest, max_seqlen_kv=longest
    )


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_dense_attention_is_that_of_float64(dtype):
    from meap_megatron.training.torch_layers import attend

    q, k, v = qkv(dtype, 2, 128)
    expected = torch.stack([reference(q[i], k[i], v[i]) for i in range(2)])
    out = attend(*(x.transpose(1, 2).to(DEVICE, dtype) for x in (q, k, v)))
    torch.testing.assert_close(
        out.transpose(1, 2).double().cpu(), expected, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype]
    )


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_packed_attention_and_its_gradients_are_those_of_each_segment_alone(dtype):
    from meap_megatron.training import torch_layers

    inputs = qkv(dtype, BOUNDS[-1])
    there = [x.to(DEVICE, dtype).requires_grad_() for x in inputs]
    here = [x.clone().requires_grad_() for x in inputs]
    packed = torch_layers.takes_varlen(there[0], dropout=0.0)
    kernel = torch_layers.attend_packed if packed else torch_layers.attend_by_segment
    out = kernel(*there, packed_params())
    parts = [reference(*(x[a:b] for x in here)) for a, b in zip(BOUNDS[:-1], BOUNDS[1:], strict=True)]
    expected = torch.cat(parts)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (out * weights.to(DEVICE, dtype)).sum().backward()
    (expected * weights).sum().backward()
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out.double().cpu(), expected, atol=tolerance, rtol=tolerance)
    for one, other in zip(there, here, strict=True):
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(one.grad.double().cpu(), other.grad, atol=tolerance * scale, rtol=tolerance)


def test_bfloat16_takes_torchs_packed_kernel_on_an_ampere_or_newer_card():
    from meap_megatron.training import torch_layers

    if torch.cuda.get_device_capability() < (8, 0) or torch_layers.varlen_kernel() is None:
        pytest.skip("needs an Ampere or newer card, and torch 2.11 or newer")
    assert torch_layers.takes_varlen(torch.zeros(8, HEADS, SIZE, device=DEVICE, dtype=torch.bfloat16), dropout=0.0)


def test_no_segment_sees_another():
    from meap_megatron.training import torch_layers

    q, k, v = (x.to(DEVICE, torch.bfloat16) for x in qkv(torch.bfloat16, BOUNDS[-1]))
    packed = torch_layers.takes_varlen(q, dropout=0.0)
    kernel = torch_layers.attend_packed if packed else torch_layers.attend_by_segment
    before = kernel(q, k, v, packed_params())
    a, b = BOUNDS[1:3]
    for x in (q, k, v):
        x[a:b] += 1
    after = kernel(q, k, v, packed_params())
    outside = torch.ones(BOUNDS[-1], dtype=torch.bool, device=DEVICE)
    outside[a:b] = False
    assert torch.equal(before[outside], after[outside]) and not torch.equal(before, after)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_norm_is_that_of_float64(dtype):
    from types import SimpleNamespace

    from meap_megatron.training.torch_layers import TorchRMSNorm

    config = SimpleNamespace(params_dtype=dtype, sequence_parallel=False)
    norm = TorchRMSNorm(config, 256).to(DEVICE)
    x = torch.randn(16, 256, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype).double()
    expected = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(
        norm(x.to(DEVICE, dtype)).double().cpu(), expected, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype]
    )


def test_masking_and_the_reported_losses_do_not_wait_for_the_gpu():
    from meap_megatron.masking.loss import LossOn
    from meap_megatron.training.batch import CHANGED_INPUT, decode
    from meap_megatron.training.step import position_weights, token_losses

    changed = torch.arange(128).reshape(2, 64) % 5 == 0
    marked = (1 + 2.0 * changed).pin_memory()  # as the dataset marks changed inputs, and the loader pins them
    losses = torch.rand(2, 64, device=DEVICE, requires_grad=True)
    loss = LossOn.parse("masked=0.5,unmasked=1", pair_weight=1.0)
    torch.cuda.synchronize()
    with no_waiting():
        loss_mask, marks = decode(marked.to(DEVICE, non_blocking=True))
        weights = position_weights(marks, loss)
        total, count, report = token_losses(losses, loss_mask, (marks & CHANGED_INPUT) > 0, weights=weights)
        total.backward()
    assert int(count) == int(weights.sum())
    part = report["masked loss"].tolist()
    assert part[1] == int(changed.sum())
    assert part[0] == pytest.approx(float(losses.detach().cpu()[changed].sum()), rel=1e-5)


def test_packed_attention_does_not_wait_for_the_gpu():
    from meap_megatron.training import torch_layers

    query, key, value = (x.to(DEVICE, torch.bfloat16) for x in qkv(torch.bfloat16, BOUNDS[-1]))
    if not torch_layers.takes_varlen(query, dropout=0.0):
        pytest.skip("needs an Ampere or newer card, and torch 2.11 or newer")
    packed = packed_params()
    torch_layers.attend_packed(query, key, value, packed)  # what is looked up once is looked up here
    torch.cuda.synchronize()
    with no_waiting():
        torch_layers.attend_packed(query, key, value, packed)


def test_the_wait_that_the_tests_look_for_is_found():
    """Or the two tests above could not fail."""
    with pytest.raises(RuntimeError, match="synchroniz"), no_waiting():
        torch.ones(1, device=DEVICE).item()


def test_transformer_engine_and_torch_attend_alike():
    te = pytest.importorskip("transformer_engine.pytorch", reason="needs Transformer Engine")
    from meap_megatron.training.torch_layers import attend

    q, k, v = (x.to(DEVICE, torch.bfloat16) for x in qkv(torch.bfloat16, 128, 2))  # [s, b, h, d]
    attention = te.DotProductAttention(
        HEADS, SIZE, num_gqa_groups=GROUPS, attention_dropout=0.0, qkv_format="sbhd", attn_mask_type="causal"
    )
    theirs = attention(q, k, v).reshape(128, 2, HEADS, SIZE)
    ours = attend(*(x.permute(1, 2, 0, 3) for x in (q, k, v))).permute(2, 0, 1, 3)
    torch.testing.assert_close(ours, theirs, atol=3e-2, rtol=3e-2)


def test_transformer_engine_and_torch_attend_alike_within_segments():
    te = pytest.importorskip("transformer_engine.pytorch", reason="needs Transformer Engine")
    from meap_megatron.training.torch_layers import attend_by_segment

    q, k, v = (x.to(DEVICE, torch.bfloat16) for x in qkv(torch.bfloat16, BOUNDS[-1]))
    packed = packed_params()
    attention = te.DotProductAttention(
        HEADS, SIZE, num_gqa_groups=GROUPS, attention_dropout=0.0, qkv_format="thd", attn_mask_type="padding_causal"
    )
    theirs = attention(
        q, k, v, cu_seqlens_q=packed.cu_seqlens_q, cu_seqlens_kv=packed.cu_seqlens_kv,
        max_seqlen_q=packed.max_seqlen_q, max_seqlen_kv=packed.max_seqlen_kv,
    )  # fmt: skip
    ours = attend_by_segment(q, k, v, packed)
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), atol=3e-2, rtol=3e-2)
