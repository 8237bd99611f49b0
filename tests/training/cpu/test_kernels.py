"""What the CPU kernels compute is what the formulas say, forwards and backwards, in one block of rows and in many."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from meap_megatron.launch import megatron_import
from meap_megatron.training.cpu import cross_entropy, kernels, linear
from meap_megatron.training.patches import rotary, torch_adam

megatron_import.import_megatron()

ALONE = SimpleNamespace(rank=lambda: 0, size=lambda: 1)


@pytest.fixture(params=[2**19, 64], ids=["one block", "a block per row or two"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernels, "BLOCK_BYTES", request.param)
    yield


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def refuse(*args: Any, **kwargs: Any) -> torch.Tensor:
    raise AssertionError("Megatron's own was called")


def assert_same(
    ours: Callable[..., torch.Tensor], formula: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> None:
    """Compare values and gradients with the formula in double precision."""
    single = [x.clone().requires_grad_() for x in inputs]
    double = [x.double().requires_grad_() for x in inputs]
    got, expected = ours(*single), formula(*double)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    grad = randn(*got.shape, seed=2)
    grads = torch.autograd.grad(got, single, grad), torch.autograd.grad(expected, double, grad.double())
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


def test_rms_norm_is_its_formula() -> None:
    assert_same(
        lambda x, w: kernels.RMSNorm.apply(x, w, 1e-5),
        lambda x, w: x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * w,
        3.0 * randn(5, 2, 16),
        randn(16, seed=3),
    )


def test_a_row_of_zeros_is_normalised_to_zeros() -> None:
    assert torch.equal(kernels.RMSNorm.apply(torch.zeros(2, 4), torch.ones(4), 1e-5), torch.zeros(2, 4))


def test_swiglu_is_its_formula() -> None:
    assert_same(kernels.SwiGLU.apply, lambda x: F.silu(x[..., :6]) * x[..., 6:], randn(5, 2, 12))


@pytest.mark.parametrize("mscale", [1.0, 1.3])
def test_the_rotation_is_megatrons_and_takes_what_attention_gives(mscale: float) -> None:
    from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd

    angles = randn(5, 1, 1, 4, seed=3)
    freqs = torch.cat((angles, angles), -1)
    config = SimpleNamespace(rotary_interleaved=False, apply_rope_fusion=False)
    ours = rotary.rotary(refuse)
    # A view in which heads do not follow each other, as the split of query, key and value gives.
    x = randn(5, 2, 3, 10)
    assert_same(
        lambda y: ours(y[..., :8], freqs, config=config, cu_seqlens=None, mscale=mscale, cp_group=None),
        lambda y: _apply_rotary_pos_emb_bshd(y[..., :8], freqs.double(), mscale=mscale),
        x,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"cu_seqlens": torch.tensor([0, 5])},
        {"interleaved": True},
        {"part": 4},
        {"dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_other_rotations_stay_megatrons(change: dict[str, Any]) -> None:
    change = dict(change)
    config = SimpleNamespace(rotary_interleaved=change.pop("interleaved", False), apply_rope_fusion=False)
    x = randn(5, 2, 3, 8).to(change.pop("dtype", torch.float32))
    freqs = randn(5, 1, 1, change.pop("part", 8))
    assert rotary.rotary(lambda *args, **kwargs: "Megatron's")(x, freqs, config, **change) == "Megatron's"


def test_cross_entropy_is_torchs() -> None:
    target = torch.tensor([[0, 8], [3, 3], [7, 1]])
    assert_same(
        lambda x: cross_entropy.CrossEntropy.apply(x.clone(), target, ALONE),
        lambda x: F.cross_entropy(x.view(-1, 9), target.view(-1), reduction="none").view(3, 2),
        10.0 * randn(3, 2, 9),
    )


class ThreadGroup:
    """Two ranks as two threads; gloo's ranks are in tests/integration."""

    def __init__(self) -> None:
        self.barrier, self.values, self.ranks = threading.Barrier(2), [torch.empty(0)] * 2, threading.local()

    def rank(self) -> int:
        return int(self.ranks.number)

    def size(self) -> int:
        return 2

    def all_reduce(self, tensor: torch.Tensor, *, op: Any, group: "ThreadGroup") -> None:
        self.values[self.rank()] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(torch.maximum(*self.values) if op == dist.ReduceOp.MAX else self.values[0] + self.values[1])
        self.barrier.wait()


def test_two_ranks_that_share_the_vocabulary_compute_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # The highest logit of a row lies on the other rank by up to 200, and e to that power is more than float32 holds.
    logits, target, grad = 60.0 * randn(4, 2, 10), torch.tensor([[0, 9], [4, 5], [7, 1], [5, 4]]), randn(4, 2, seed=2)
    whole = logits.clone().requires_grad_()
    expected = cross_entropy.CrossEntropy.apply(whole.clone(), target, ALONE)
    expected.backward(grad)
    group = ThreadGroup()
    monkeypatch.setattr(dist, "all_reduce", group.all_reduce)

    def share(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        group.ranks.number = rank
        part = logits[..., 5 * rank : 5 * (rank + 1)].clone().requires_grad_()
        losses = cross_entropy.CrossEntropy.apply(part.clone(), target, group)
        losses.backward(grad)
        assert part.grad is not None
        return losses.detach(), part.grad

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(share, (0, 1)))
    for losses, _ in parts:
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([grads for _, grads in parts], -1), whole.grad, rtol=1e-5, atol=1e-6)


def test_adam_steps_by_the_fused_kernel_also_after_it_was_loaded() -> None:
    weight, plain = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    reference = torch.optim.AdamW([plain], lr=0.1)
    fused = torch.optim.AdamW([weight], lr=0.1)
    groups = fused.state_dict()["param_groups"]
    for _ in range(3):
        weight.grad, plain.grad = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, -2.0, 0.5])
        reference.step()
        fused.load_state_dict(fused.state_dict() | {"param_groups": groups})
        assert not fused.param_groups[0]["fused"]
        hook = torch_adam.fuse()
        try:
            with torch.profiler.profile() as profile:
                fused.step()
        finally:
            hook.remove()
        assert "aten::_fused_adamw_" in {event.key for event in profile.key_averages()}
    torch.testing.assert_close(weight, plain)


def test_a_step_that_a_checkpoint_left_on_another_device_is_brought_beside_its_parameter() -> None:
    weight = torch.nn.Parameter(torch.ones(3, device="meta"))
    adam = torch.optim.AdamW([weight], lr=0.1)
    adam.state[weight] = {"step": torch.tensor(7.0)}
    torch_adam.use_fused_kernel(adam, (), {})
    assert adam.param_groups[0]["fused"] and adam.state[weight]["step"].device == weight.device


def settings_of_a_layer(**changes: Any) -> dict[str, Any]:
    plain = {"bias": None, "gradient_accumulation_fusion": False, "allreduce_dgrad": False, "sequence_parallel": False}
    return plain | {"grad_output_buffer": None, "wgrad_deferral_limit": None, "tp_group": None} | changes


def test_a_linear_layer_is_its_formula() -> None:
    layer = linear.linear_on_cpu(refuse)
    assert_same(
        lambda x, w: layer(input=x, weight=w, **settings_of_a_layer()),
        lambda x, w: x @ w.t(),
        randn(5, 2, 8),
        randn(6, 8),
    )


def test_the_gradient_of_a_weight_is_added_to_what_earlier_micro_batches_left() -> None:
    layer = linear.linear_on_cpu(refuse)
    x, weight = randn(5, 2, 8), torch.nn.Parameter(randn(6, 8, seed=2))
    weight.main_grad, weight.grad_added_to_main_grad = torch.full((6, 8), 7.0), False
    layer(input=x, weight=weight, **settings_of_a_layer()).sum().backward()
    assert weight.grad_added_to_main_grad
    torch.testing.assert_close(weight.main_grad, 7.0 + x.sum((0, 1)).expand(6, 8))


def test_an_embedding_that_is_the_output_layer_too_gets_both_gradients() -> None:
    layer = linear.linear_on_cpu(refuse)
    x, weight = randn(5, 2, 8), torch.nn.Parameter(randn(6, 8, seed=2))
    weight.main_grad, weight.grad_added_to_main_grad, weight.zero_out_wgrad = torch.zeros(6, 8), False, True
    layer(input=x, weight=weight, **settings_of_a_layer()).sum().backward()
    assert not weight.grad_added_to_main_grad
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(6, 8))
    assert not weight.main_grad.any()


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_parallel": True},
        {"bias": torch.zeros(6)},
        {"gradient_accumulation_fusion": True},
        {"gtp_remat_size": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_linear_layers_stay_megatrons(change: dict[str, Any]) -> None:
    layer = linear.linear_on_cpu(lambda *args, **kwargs: "Megatron's")
    assert layer(input=randn(5, 8), weight=randn(6, 8), **settings_of_a_layer(**change)) == "Megatron's"
