"""The CPU layers compute what the textbook says, and segments never see each other."""

from types import SimpleNamespace

import pytest
import torch

from meap_megatron.errors import UserError
from meap_megatron.training import platform

platform.import_megatron()

from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from meap_megatron.training.cpu_layers import CpuAttention, CpuRMSNorm, block_spec  # noqa: E402

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
    assert torch.allclose(CpuAttention(config())(q, k, v, None), textbook(q, k, v, causal), atol=1e-6)


def test_an_explicit_attention_mask_is_obeyed() -> None:
    q, k, v = qkv(S, B)
    forbidden = torch.triu(torch.ones(S, S, dtype=torch.bool), 1)
    forbidden[4:, :4] = True  # a document ends after position 3
    got = CpuAttention(config())(q, k, v, forbidden.expand(B, 1, S, S))
    assert torch.allclose(got, textbook(q, k, v, forbidden), atol=1e-6)


def test_packed_segments_equal_the_segments_one_by_one() -> None:
    q, k, v = qkv(S)
    bounds = [0, 3, 3, 7]
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor(bounds, dtype=torch.int32))
    got = CpuAttention(config())(q, k, v, None, packed_seq_params=packed)
    alone = [
        CpuAttention(config())(*(x[a:b].unsqueeze(1) for x in (q, k, v)), None).squeeze(1) for a, b in ((0, 3), (3, 7))
    ]
    assert torch.equal(got, torch.cat(alone))


def test_changing_one_segment_changes_no_other() -> None:
    q, k, v = qkv(S)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=torch.tensor([0, 3, 7], dtype=torch.int32))
    attention = CpuAttention(config())
    before = attention(q, k, v, None, packed_seq_params=packed)
    for tensor in (q, k, v):
        tensor[:3] += 1.0
    after = attention(q, k, v, None, packed_seq_params=packed)
    assert torch.equal(before[3:], after[3:])
    assert not torch.equal(before[:3], after[:3])


def test_the_norm_is_marked_for_sequence_parallel() -> None:
    norm = CpuRMSNorm(config(sequence_parallel=True, tensor_model_parallel_size=2), 4)
    assert norm.weight.sequence_parallel is True
    assert torch.allclose(norm(torch.tensor([3.0, 4.0, 0.0, 0.0])), torch.tensor([1.2, 1.6, 0.0, 0.0]), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization": "LayerNorm"}, "set normalization=RMSNorm"),
        ({"context_parallel_size": 2}, "context_parallel_size=2"),
        ({"num_moe_experts": 4}, "num_moe_experts=4 is not built"),
    ],
)
def test_what_the_cpu_layers_cannot_do_is_refused_by_name(change: dict[str, object], message: str) -> None:
    settings = SimpleNamespace(context_parallel_size=1, normalization="RMSNorm", qk_layernorm=False)
    vars(settings).update(change)
    with pytest.raises(UserError, match=message):
        block_spec(SimpleNamespace(transformer=settings))


def test_attention_dropout_works_in_training_and_rests_in_evaluation() -> None:
    q, k, v = qkv(S, B)
    attention = CpuAttention(config(attention_dropout=0.5))
    assert not torch.equal(attention(q, k, v, None), attention(q, k, v, None))
    attention.eval()
    assert torch.equal(attention(q, k, v, None), attention(q, k, v, None))
