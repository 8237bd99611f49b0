"""Without Apex, Megatron's linear layer adds its weight gradient to the buffer inside Transformer Engine's product."""

import sys
from typing import Any

import pytest
import torch
from megatron.core.extensions import transformer_engine
from megatron.core.tensor_parallel import layers

from meap_megatron.training import platform
from meap_megatron.training.patches import redirect, weight_gradient


def general_gemm(
    a: torch.Tensor, b: torch.Tensor, *, layout: str, out: torch.Tensor, out_dtype: Any, **rest: Any
) -> Any:
    """Compute what Transformer Engine's general_gemm says it does: column-major, out^T = A B^T for layout NT."""
    assert layout == "NT" and out.is_contiguous() and out.dtype == out_dtype
    assert rest == {"accumulate": True, "grad": True}
    out += b.to(out_dtype).t() @ a.to(out_dtype)
    return out, None, None, None


def two_micro_batches(weight: torch.nn.Parameter, inputs: torch.Tensor) -> None:
    for half in inputs.chunk(2):
        output = layers.LinearWithGradAccumulationAndAsyncCommunication.apply(
            half, weight, None, True, False, False, None, None, None, 1
        )
        output.square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_adds_its_gradient_to_the_buffer_without_rounding_it_first(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(layers, weight_gradient.NAME, weight_gradient, raising=False)
    monkeypatch.setattr(transformer_engine, "general_gemm", general_gemm, raising=False)
    monkeypatch.setattr(transformer_engine, "_get_workspace", None, raising=False)
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 4).to(dtype))
    weight.main_grad = torch.ones(6, 4)
    inputs = torch.randn(10, 4).to(dtype)
    two_micro_batches(weight, inputs)
    outputs = (inputs @ weight.t()).detach()
    exact = 1.0 + (2.0 * outputs).float().t() @ inputs.float()
    assert weight.grad is None
    torch.testing.assert_close(weight.main_grad, exact, rtol=1e-5, atol=1e-5)
    if dtype == torch.bfloat16:
        assert (exact.bfloat16().float() - exact).abs().max() > 1e-3, "rounding would be seen"


@pytest.mark.parametrize(
    ("engine", "apex", "stands_in"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_stand_in_is_there_with_transformer_engine_and_without_apex(
    monkeypatch: pytest.MonkeyPatch, engine: bool, apex: bool, stands_in: bool
) -> None:
    monkeypatch.setattr(redirect, "loads", lambda name: apex)
    monkeypatch.setattr(redirect, "_installed", [])
    monkeypatch.setattr(redirect, "ALWAYS", ())
    monkeypatch.setattr(redirect.torch_adam, "fuse", lambda: None)
    monkeypatch.delitem(sys.modules, weight_gradient.NAME, raising=False)
    redirect.install(device="cuda", engine=engine)
    assert (sys.modules.pop(weight_gradient.NAME, None) is weight_gradient) == stands_in


def test_fully_sharded_weights_have_no_buffer_to_add_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "is_importable", lambda name: True)
    assert "--no-gradient-accumulation-fusion" in platform.flags_for("cuda", ["--use-torch-fsdp2"])
    assert "--no-gradient-accumulation-fusion" not in platform.flags_for("cuda", [])
