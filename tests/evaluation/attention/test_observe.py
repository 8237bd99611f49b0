"""What is observed is what eager attention computes, in every family, with memory that does not grow with T x T."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from meap_megatron.errors import UserError
from meap_megatron.evaluation.attention.observe import check_observable, most_attended, observe
from tests.support.hf_models import write_model

FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama2", {}),  # a key for every head
    ("llama3", {}),  # two heads share a key
    ("mistral", {}),
    ("mistral", {"sliding_window": 20}),
    ("qwen2", {}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2}),
]


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_columns_equal_those_of_eager_attention(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    write_model(tmp_path, family, **changes)
    eager = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.manual_seed(1)
    tokens, queries = torch.randint(0, 512, (2, 70)), torch.rand(3, 70)
    with torch.no_grad():
        weights = torch.stack(eager(tokens, output_attentions=True).attentions)  # [layers, batch, heads, T, T]
    expected = torch.einsum("lbhqk,sq->bslk", weights, queries) / weights.shape[2]
    for max_weights in (1, 5000, 10**9):  # one query at a time, several, all
        found = observe(model, tokens, queries=queries, max_weights=max_weights)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        most = most_attended(model, tokens, last=9, max_weights=max_weights)
        assert torch.equal(most, weights[:, :, :, -9:].argmax(-1).transpose(0, 1))
    assert expected.std() > 0.01  # not the same for every key


@pytest.mark.parametrize(("family", "changes"), FAMILIES)
def test_the_model_itself_is_undisturbed(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    write_model(tmp_path, family, **changes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(60)[None]
    with torch.no_grad():
        before = model(tokens).logits
    check_observable(model, name=family)
    observe(model, tokens, queries=torch.ones(1, 60))
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, before)


def test_sixteen_bit_models_are_observed_in_fp32(tmp_path: Path) -> None:
    write_model(tmp_path, "llama3", dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    check_observable(model, name="llama3")
    found = observe(model, torch.arange(100)[None], queries=torch.ones(1, 100))
    # Weights that were rounded to bfloat16 would miss the sum of the queries by far more.
    torch.testing.assert_close(found.sum(-1), torch.full((1, 1, 4), 100.0), rtol=1e-6, atol=0)


def uniform_model() -> Any:
    """A model whose queries are 0, so that a query attends equally to all keys up to its own."""
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    return model


def test_a_model_that_attends_equally_gives_columns_that_one_computes_by_hand() -> None:
    queries = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 1]])
    found = observe(uniform_model(), torch.tensor([[3, 1, 4, 1]]), queries=queries)
    # Query i gives 1 / (i + 1) to each of the keys 0..i.
    everywhere = torch.tensor([1 + 1 / 2 + 1 / 3 + 1 / 4, 1 / 2 + 1 / 3 + 1 / 4, 1 / 3 + 1 / 4, 1 / 4])
    torch.testing.assert_close(found[0, 0], everywhere.expand(3, 4))
    torch.testing.assert_close(found[0, 1], torch.full((3, 4), 1 / 4))


class Largest(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_the_largest_tensor_grows_with_the_length_and_not_with_its_square() -> None:
    model = uniform_model().eval()
    largest: dict[str, list[int]] = {"observed": [], "eager": []}
    for length in (64, 256, 1024):
        tokens = torch.arange(length)[None] % 32
        with Largest() as meter:
            observe(model, tokens, queries=torch.ones(1, length), max_weights=2**12)
        largest["observed"].append(meter.elements)
        if length < 1024:
            model.set_attn_implementation("eager")
            with Largest() as meter, torch.no_grad():
                model.model(tokens, output_attentions=True)
            largest["eager"].append(meter.elements)
            model.set_attn_implementation("sdpa")
    # The bound of the weights, or a constant number of values for every token.
    assert largest["observed"][0] <= 2**12
    assert largest["observed"][2] <= 4 * largest["observed"][1]
    assert largest["observed"][2] <= 64 * 1024
    # The meter does see T x T where there is one.
    assert largest["eager"] == [4 * 64**2, 4 * 256**2]


def test_a_model_whose_attention_is_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = uniform_model()
    torch.manual_seed(2)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.weight)
    check_observable(model, name="sound")
    own = type(model.model.layers[0].self_attn).forward

    def capped(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        # A layer that does with its scores what no argument tells.
        self.scaling = 1.0 if self.config._attn_implementation == "sdpa" else 0.25
        return own(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(type(model.model.layers[0].self_attn), "forward", capped)
    with pytest.raises(UserError, match="its attention cannot be observed"):
        check_observable(model, name="capped")
