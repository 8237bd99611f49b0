"""Torch's layers compute what the textbook says on every path, and segments never see each other."""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from meap_megatron.errors import UserError
from meap_megatron.launch import megatron_import

megatron_import.import_megatron()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlock  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from meap_megatron.training import torch_layers, torch_stack  # noqa: E402
from meap_megatron.training.cpu import kernels  # noqa: E402
from meap_megatron.training.patches import rotary  # noqa: E402
from meap_megatron.training.torch_layers import TorchAttention, TorchRMSNorm, block_spec  # noqa: E402

S, B, H, G, D = 7, 2, 4, 2, 8


def config(**changes: object) -> TransformerConfig:
    settings = {"num_layers": 2, "hidden_size": H * D, "num_attention_heads": H, "num_query_groups": G}
    return TransformerConfig(**(settings | {"normalization": "RMSNorm", "attention_dropout": 0.0} | changes))


def textbook(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, forbidden: torch.Tensor) -> torch.Tensor:
    """Softmax attention on [s, b, h, d], written out."""
    k, v = (x.repeat_interleave(H // G, dim=2) for x in (k, v))
    scores = torch.einsum("sbhd,tbhd->bhst", q, k) / D**0.5
    weights = scores.masked_fill(forbidden, float("-inf")).softmax(-1)
    return torch.einsum("bhst,tbhd->sbhd", weights, v).reshape(q.size(0), q.size(1), -1)


def qkv(*lead: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(*lead, heads, D, generator=generator) for heads in (H, G, G))  # type: ignore[return-value]


def test_grouped_causal_attention_equals_the_textbook() -> None:
    q, k, v = qkv(S, B)
    causal = torch.triu(torch.ones(S, S, dtype=torch.bool), 1)
    assert torch.allclose(TorchAttention(config())(q, k, v, None), textbook(q, k, v, causal), atol=1e-6)


def test_an_explicit_attention_mask_is_obeyed() -> None:
    q, k, v = qkv(S, B)
    forbidden = torch.triu(torch.ones(S, S, dtype=torch.bool), 1)
    forbidden[4:, :4] = True  # a document ends after position 3
    got = TorchAttention(config())(q, k, v, forbidden.expand(B, 1, S, S))
    assert torch.allclose(got, textbook(q, k, v, forbidden), atol=1e-6)


def test_packed_segments_equal_the_segments_one_by_one() -> None:
    q, k, v = qkv(S)
    bounds = [0, 3, 3, 7]
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor(bounds, dtype=torch.int32))
    got = TorchAttention(config())(q, k, v, None, packed_seq_params=packed)
    alone = [
        TorchAttention(config())(*(x[a:b].unsqueeze(1) for x in (q, k, v)), None).squeeze(1)
        for a, b in ((0, 3), (3, 7))
    ]
    assert torch.equal(got, torch.cat(alone))


BOUNDS = [0, 3, 3, 7]


def segments(bounds: list[int] = BOUNDS) -> PackedSeqParams:
    longest = max(b - a for a, b in zip(bounds[:-1], bounds[1:], strict=True))
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def varlen_by_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What torch's kernel for packed segments is documented to give, by a mask of all tokens against all."""
    assert cu_seq_q is cu_seq_k and cu_seq_q.dtype == torch.int32 and window_size == (-1, 0)
    assert max_q == max_k == int((cu_seq_q[1:] - cu_seq_q[:-1]).max())
    assert enable_gqa or query.size(1) == key.size(1)
    owner = torch.searchsorted(cu_seq_q, torch.arange(query.size(0), dtype=torch.int32), right=True)
    allowed = (owner[:, None] == owner[None, :]).tril()
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, scale=scale, enable_gqa=enable_gqa
    )
    return out.squeeze(0).transpose(0, 1)


def with_gradients(attention: TorchAttention, packed: PackedSeqParams) -> list[torch.Tensor]:
    """Return the output and the gradients of query, key and value."""
    inputs = [x.requires_grad_() for x in qkv(S)]
    out = attention(*inputs, None, packed_seq_params=packed)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    return [out, *torch.autograd.grad(out, inputs, weights)]


@pytest.mark.parametrize("takes_groups", [True, False], ids=["torch 2.12", "torch 2.11"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_one_kernel_for_all_segments_gives_what_one_call_per_segment_does(
    takes_groups: bool, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = TorchAttention(config(), softmax_scale=scale)
    expected = with_gradients(attention, segments())
    monkeypatch.setattr(torch_layers, "takes_flash", lambda query: True)
    monkeypatch.setattr(torch_layers, "varlen_kernel", lambda: (varlen_by_mask, takes_groups))
    packed = segments()
    for got, wanted in zip(with_gradients(attention, packed), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert not hasattr(packed, "segment_bounds")  # nothing was read on the host


def test_the_installed_torch_takes_the_call_and_gives_its_shapes() -> None:
    kernel = torch_layers.varlen_kernel()
    if kernel is None:
        pytest.skip("torch before 2.11 has no kernel for packed segments that takes a scale")
    assert kernel[1] == ("enable_gqa" in inspect.signature(kernel[0]).parameters)
    packed = segments()
    packed.cu_seqlens_q = packed.cu_seqlens_q.to("meta")
    inputs = [x.to("meta", torch.bfloat16).requires_grad_() for x in qkv(S)]
    out = torch_layers.attend_packed(*inputs, packed, scale=None)
    out.sum().backward()
    assert out.shape == (S, H, D)
    assert [x.grad.shape for x in inputs] == [x.shape for x in inputs]


def test_in_deterministic_mode_packed_rows_stay_with_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def kernel(query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        asked.append(torch.backends.cuda.cudnn_sdp_enabled())
        return query

    monkeypatch.setattr(torch_layers, "varlen_kernel", lambda: (kernel, True))
    for exact in (False, True):
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda exact=exact: exact)
        torch_layers.attend_packed(*qkv(S), segments())
    assert asked == [True, False]


def test_the_host_reads_the_bounds_once_for_all_layers_and_passes() -> None:
    packed = segments()
    reads: list[int] = []

    class Counted(torch.Tensor):
        def tolist(self) -> Any:
            reads.append(1)
            return super().tolist()

    packed.cu_seqlens_q = packed.cu_seqlens_q.as_subclass(Counted)
    first, second = TorchAttention(config()), TorchAttention(config())
    for attention in (first, second, first):
        attention(*qkv(S), None, packed_seq_params=packed)
    assert reads == [1]


@pytest.mark.parametrize(
    ("dtype", "size", "capability", "taken"),
    [
        (torch.bfloat16, 64, (9, 0), True),
        (torch.float32, 64, (9, 0), False),
        (torch.bfloat16, 60, (9, 0), False),
        (torch.bfloat16, 512, (9, 0), False),
        (torch.float16, 64, (7, 5), False),
    ],
)
def test_flash_is_asked_for_where_a_gpu_has_it(
    dtype: torch.dtype, size: int, capability: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    torch_layers.has_flash.cache_clear()
    query = SimpleNamespace(size=lambda dim: size, dtype=dtype, device=torch.device("cuda", 0), is_cuda=True)
    assert torch_layers.takes_flash(query) is taken  # type: ignore[arg-type]
    torch_layers.has_flash.cache_clear()


def test_packed_rows_are_rotated_by_the_position_in_their_segment() -> None:
    from megatron.core.models.common.embeddings import rope_utils

    alone = SimpleNamespace(size=lambda: 1, rank=lambda: 0)
    angles = torch.randn(S, 1, 1, D // 2, generator=torch.Generator().manual_seed(3))
    freqs = torch.cat((angles, angles), -1)
    settings = SimpleNamespace(rotary_interleaved=False, apply_rope_fusion=False, multi_latent_attention=False)
    ours, theirs = rotary.rotary(rope_utils.apply_rotary_pos_emb), rope_utils.apply_rotary_pos_emb
    for dtype, bounds in ((torch.float32, BOUNDS), (torch.bfloat16, BOUNDS), (torch.float32, [0, 1, 6, 7])):
        x, _, _ = (x.to(dtype) for x in qkv(S))
        given = {"cu_seqlens": torch.tensor(bounds, dtype=torch.int32), "mscale": 1.0, "cp_group": alone}
        torch.testing.assert_close(ours(x, freqs[:5], settings, **given), theirs(x, freqs[:5], settings, **given))


@pytest.fixture
def block() -> Iterator[Any]:
    """Two layers and a norm, built by Megatron on a CPU, with norms of queries and keys."""
    # A group of one rank that starts no thread: other tests fork from this process.
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        torch.manual_seed(1)
        settings = config(
            use_cpu_initialization=True,
            gated_linear_unit=True,
            activation_func=torch.nn.functional.silu,
            add_bias_linear=False,
            ffn_hidden_size=48,
            qk_layernorm=True,
            hidden_dropout=0.0,
            init_method_std=0.3,
        )
        yield TransformerBlock(settings, block_spec(SimpleNamespace(transformer=settings)))
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "dense"])
def test_what_a_gpu_runs_is_what_a_cpu_runs(packed: bool, block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's norm, Megatron's feed-forward layer and rotation, and one kernel for all segments, against the CPU's own."""
    angles = torch.randn(S, 1, 1, D // 2, generator=torch.Generator().manual_seed(3))
    x = torch.randn(S, 1, H * D, generator=torch.Generator().manual_seed(4)).requires_grad_()

    def run() -> list[torch.Tensor]:
        given = {"packed_seq_params": segments()} if packed else {}
        out = block(x, None, rotary_pos_emb=torch.cat((angles, angles), -1), **given)
        return [out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])]

    on_cpu = run()
    monkeypatch.setattr(kernels, "takes", lambda tensor: False)
    monkeypatch.setattr(torch_layers, "takes_flash", lambda query: True)
    monkeypatch.setattr(torch_layers, "varlen_kernel", lambda: (varlen_by_mask, True))
    for expected, got in zip(on_cpu, run(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_changing_one_segment_changes_no_other() -> None:
    q, k, v = qkv(S)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor([0, 3, 7], dtype=torch.int32))
    attention = TorchAttention(config())
    before = attention(q, k, v, None, packed_seq_params=packed)
    for tensor in (q, k, v):
        tensor[:3] += 1.0
    after = attention(q, k, v, None, packed_seq_params=packed)
    assert torch.equal(before[3:], after[3:])
    assert not torch.equal(before[:3], after[:3])


def test_the_norm_is_marked_for_sequence_parallel() -> None:
    norm = TorchRMSNorm(config(sequence_parallel=True, tensor_model_parallel_size=2), 4)
    assert norm.weight.sequence_parallel is True
    assert torch.allclose(norm(torch.tensor([3.0, 4.0, 0.0, 0.0])), torch.tensor([1.2, 1.6, 0.0, 0.0]), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization": "LayerNorm"}, "set normalization=RMSNorm"),
        ({"num_moe_experts": 4}, "--num-experts 4 needs Transformer Engine"),
        ({"layernorm_zero_centered_gamma": True}, "^--apply-layernorm-1p needs Transformer Engine"),
    ],
)
def test_what_these_layers_cannot_do_is_refused_by_name(change: dict[str, object], message: str) -> None:
    settings = SimpleNamespace(context_parallel_size=1, normalization="RMSNorm", qk_layernorm=False)
    vars(settings).update(change)
    with pytest.raises(UserError, match=message):
        block_spec(SimpleNamespace(transformer=settings))


def test_attention_dropout_works_in_training_and_rests_in_evaluation() -> None:
    q, k, v = qkv(S, B)
    attention = TorchAttention(config(attention_dropout=0.5))
    assert not torch.equal(attention(q, k, v, None), attention(q, k, v, None))
    attention.eval()
    assert torch.equal(attention(q, k, v, None), attention(q, k, v, None))


def test_hybrid_attention_has_the_norms_of_query_and_key_with_and_without_an_engine() -> None:
    normed = config(qk_layernorm=True)
    for stack in (torch_stack.torch_stack, torch_stack.engine_stack):
        for configured, has in ((normed, True), (config(), False)):
            attention = stack(configured).submodules.attention_layer.submodules.self_attention.submodules
            norms = {attention.q_layernorm, attention.k_layernorm} - {None, IdentityOp}
            assert len(norms) == has, "and Megatron's own specification is left as it is"


def test_the_norm_of_a_gated_delta_net_is_that_of_its_kernel() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    out = kernels.l2norm(x)
    torch.testing.assert_close(out, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    out.sum().backward()
    assert torch.isfinite(x.grad).all(), "a vector of zeros has a gradient too"
