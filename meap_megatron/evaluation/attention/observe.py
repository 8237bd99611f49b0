"""Attention weights summed over queries while the model computes them: memory linear in the length.

The usual way (`output_attentions=True`) keeps layers x heads x T x T weights: 2 GiB per layer for 32 heads at T = 4096.
What the analyses need of a weight A[layer, head, query, key] is only its mean over heads, summed over a set of
queries. So an attention function of our own is registered with transformers; it gets query and key after the rotary
embedding, computes the softmax in fp32 for a few queries at a time, adds up the columns, and returns the exact output.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from meap_megatron.errors import UserError

NAME = "meap_observed"
MAX_WEIGHTS = {"cpu": 2**24, "cuda": 2**28}
"""Attention weights that exist at one time, by kind of device: 64 MiB in fp32, or 1 GiB, which keeps a GPU busy."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Largest difference of a hidden state from the model's own attention, as a share of the largest hidden state."""
TOLERANCE_16_BIT = 5e-2


@dataclass(kw_only=True)
class Observer:
    """What one forward pass has shown so far."""

    queries: Tensor
    """float32[sets, T]: weight of each query in each set."""
    max_weights: int
    last: int = 0
    """Queries at the end whose most attended key is kept for every head."""
    layers: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> float32[batch, sets, T]: mean over heads, weighted sum over queries."""
    most: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> int64[batch, heads, last]: the most attended keys."""


ACTIVE: ContextVar[Observer | None] = ContextVar("meap_observer", default=None)


def observed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention in chunks of queries and show the weights to the active observer.

    Args:
        module: the attention layer.
        query: [batch, heads, T, d], after the rotary embedding.
        key: [batch, groups, T, d], after the rotary embedding.
        value: [batch, groups, T, d].
        attention_mask: none: sequences have no padding here.
        scaling: factor of the scores.
        sliding_window: keys that a query sees, itself included; None for all before it.

    Returns:
        [batch, T, heads, d], and no weights.
    """
    observer = ACTIVE.get()
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    assert observer is not None and attention_mask is None and key.shape[2] == length
    keys = key.float().reshape(batch * groups, length, width).transpose(1, 2)
    values = value.reshape(batch * groups, length, value.shape[-1])
    received = torch.zeros(batch, observer.queries.shape[0], length, device=query.device)
    output = torch.empty(batch, length, heads, value.shape[-1], dtype=query.dtype, device=query.device)
    positions = torch.arange(length, device=query.device)
    most = []
    step = max(1, observer.max_weights // (batch * heads * length))
    for start in range(0, length, step):
        end = min(start + step, length)
        # The heads of a group share its keys: their queries are rows of one product, and no key is copied.
        rows = query[:, :, start:end].float().reshape(batch * groups, heads // groups * (end - start), width)
        scores = torch.bmm(rows, keys[:, :, :end]).mul_(scaling).view(batch, heads, end - start, end)
        hidden = positions[:end] > positions[start:end, None]
        if sliding_window is not None:
            hidden |= positions[:end] <= positions[start:end, None] - sliding_window
        weights = scores.masked_fill_(hidden, float("-inf")).softmax(dim=-1)
        received[..., :end] += observer.queries[:, start:end] @ weights.mean(dim=1)
        if end > (begin := max(start, length - observer.last)):
            most.append(weights[:, :, begin - start :].argmax(dim=-1))
        mixed = torch.bmm(weights.to(value.dtype).view(batch * groups, -1, end), values[:, :end])
        output[:, start:end] = mixed.view(batch, heads, end - start, -1).transpose(1, 2)
    observer.layers[int(module.layer_idx)] = received
    if most:
        observer.most[int(module.layer_idx)] = torch.cat(most, dim=2)
    return output, None


AttentionInterface.register(NAME, observed_attention)


@contextmanager
def observing(model: Any) -> Iterator[None]:
    """Let a model compute with the observed attention, and give it its own back afterwards."""
    own = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@torch.no_grad()
def observe(model: Any, tokens: Tensor, *, queries: Tensor, max_weights: int | None = None) -> Tensor:
    """Return how much attention each key receives from sets of queries.

    Args:
        model: transformers model with a decoder of causal attention layers.
        tokens: int64[batch, T], no padding.
        queries: float[sets, T], weight of each query in each set.
        max_weights: attention weights that may exist at one time (a row of every head does in any case); None: as many as
            suit the device.

    Returns:
        float32[batch, sets, layers, T] on the CPU: mean over heads, weighted sum over queries. The last axis sums to
        the sum of the set's weights.
    """
    observer, _ = _watched(model, tokens, queries=queries, max_weights=max_weights)
    return torch.stack([observer.layers[layer] for layer in sorted(observer.layers)], dim=2).cpu()


@torch.no_grad()
def most_attended(model: Any, tokens: Tensor, *, last: int, max_weights: int | None = None) -> Tensor:
    """Return the key that every head attends to most, for the last queries: int64[batch, layers, heads, last] on the CPU.

    Args:
        model: as of `observe`.
        tokens: int64[batch, T], no padding.
        last: number of queries, from the end.
        max_weights: as of `observe`.
    """
    nothing = torch.zeros(1, tokens.shape[1])
    observer, _ = _watched(model, tokens, queries=nothing, max_weights=max_weights, last=last)
    return torch.stack([observer.most[layer] for layer in sorted(observer.most)], dim=1).cpu()


def _watched(
    model: Any, tokens: Tensor, *, queries: Tensor, max_weights: int | None, last: int = 0
) -> tuple[Observer, Tensor]:
    """Let a model read tokens under observation, and return its last hidden state too."""
    model.eval()
    most = max_weights or MAX_WEIGHTS.get(model.device.type, MAX_WEIGHTS["cpu"])
    observer = Observer(queries=queries.to(model.device, torch.float32), max_weights=most, last=last)
    token = ACTIVE.set(observer)
    try:
        with observing(model):
            # The base model: logits of 4,096 tokens would be the largest tensor of all.
            hidden = model.base_model(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state
    finally:
        ACTIVE.reset(token)
    return observer, hidden


@torch.no_grad()
def check_observable(model: Any, *, name: str) -> None:
    """Refuse a model whose attention is not what is observed here (other masks, sinks, caps; an old interface).

    Raises:
        UserError: its hidden states change under observation, or not every layer was seen.
    """
    model.eval()
    length = min(48, getattr(model.config, "max_position_embeddings", None) or 48)
    tokens = torch.arange(length, device=model.device)[None] % model.get_input_embeddings().num_embeddings
    expected = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state.float()
    observer, found = _watched(model, tokens, queries=torch.ones(1, length), max_weights=1)
    seen, layers = len(observer.layers), model.config.num_hidden_layers
    difference = ((found.float() - expected).abs().max() / expected.abs().max()).item()
    if seen != layers or not difference <= TOLERANCE.get(model.dtype, TOLERANCE_16_BIT):
        raise UserError(
            f"model {name} ({type(model).__name__}): its attention cannot be observed ({seen} of {layers} layers seen, "
            f"hidden states differ by {difference:.1e}); the analyses know Llama, Mistral, Qwen2 and their like"
        )
