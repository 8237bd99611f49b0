"""Prompts that share what they begin with get the answers that each gets by itself, with less work."""

import random
from typing import Any

import pytest
import torch
import transformers

from meap_megatron.evaluation import shared_prefix

VOCABULARY, NEW_TOKENS, END = 61, 12, 7
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": END,
    "pad_token_id": 0,
}


def model_of(family: str, **shape: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SHAPE, **shape})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    # Weights large enough that the most likely token leads clearly, and an answer does not repeat one token.
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(3) if weights.dim() > 1 else None
    return model


def some_prompts() -> list[list[int]]:
    """Return prompts that share beginnings of every kind: none, part, all but the last token, all, another prompt."""
    draw = random.Random(0)
    trunk = [draw.randrange(8, VOCABULARY) for _ in range(40)]
    branches = [trunk[:keep] + [draw.randrange(8, VOCABULARY) for _ in range(extra)] for keep, extra in PLACES]
    return [*branches, trunk, trunk[:-1], trunk, trunk[:1], [9, 9], trunk[:20]]


PLACES = ((0, 30), (10, 30), (20, 5), (39, 1), (40, 9), (40, 1))


def one_by_one(model: Any, prompts: list[list[int]]) -> list[list[int]]:
    """Return what transformers generates for each prompt by itself, without an end."""
    found = []
    for prompt in prompts:
        made = model.generate(torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)
        found.append(made[0, len(prompt) :].tolist())
    return found


def until(answer: list[int], end: int) -> list[int]:
    return answer[: answer.index(end) + 1] if end in answer else answer


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {}),
        ("qwen3", {"head_dim": 8}),
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    ],
)
def test_every_answer_is_the_one_of_the_prompt_by_itself(family: str, shape: dict[str, Any]) -> None:
    model, prompts = model_of(family, **shape), some_prompts()
    assert shared_prefix.can_share(model)
    alone = one_by_one(model, prompts)
    assert len({tuple(answer) for answer in alone}) > 5
    end = alone[0][4]
    for rows in (1, 3, None):
        found = dict(shared_prefix.answers(model, prompts, new_tokens=NEW_TOKENS, ends=[end], rows=rows))
        assert [found[number] for number in range(len(prompts))] == [until(answer, end) for answer in alone]
    barred = dict(shared_prefix.answers(model, prompts, new_tokens=NEW_TOKENS, ends=[], never=[end]))
    assert not any(end in answer for answer in barred.values())
    stopped = dict(shared_prefix.answers(model, prompts, new_tokens=9, ends=[], stop=lambda said: len(said) == 2))
    assert [stopped[number] for number in range(len(prompts))] == [answer[:2] for answer in alone]


def test_what_prompts_share_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of("llama"), some_prompts()
    computed = 0

    def count(module: Any, arguments: tuple[Any, ...]) -> None:
        nonlocal computed
        computed += arguments[0].numel()

    model.get_input_embeddings().register_forward_pre_hook(count)
    monkeypatch.setattr(shared_prefix, "CHUNK", 4)
    assert len(dict(shared_prefix.answers(model, prompts, new_tokens=1, ends=[]))) == len(prompts)
    beginnings = {tuple(prompt[:length]) for prompt in prompts for length in range(1, len(prompt) + 1)}
    # Three prompts are beginnings of another: their last token is computed again, for its logits.
    assert len(beginnings) <= computed <= len(beginnings) + 4
    assert sum(map(len, prompts)) > 1.5 * computed


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("mistral", {"sliding_window": 4}),  # keeps no keys from before the window
        ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8}),  # has a cap on its logits of attention
        ("mamba", {"state_size": 4}),  # has no keys
    ],
)
def test_a_model_whose_cache_cannot_be_shared_is_known(family: str, shape: dict[str, Any]) -> None:
    assert not shared_prefix.can_share(model_of(family, **shape))


def test_a_model_that_gives_other_logits_with_rows_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any, **options: Any) -> Any:
        out, _ = right(*arguments, **options)
        return out * 1.5, None

    model, right = model_of("llama"), shared_prefix.attend
    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, shared_prefix.ATTENTION, wrong)
    assert not shared_prefix.can_share(model)


def test_rows_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of("llama"), some_prompts()
    alone = one_by_one(model, prompts)
    sizes: list[int] = []
    following = shared_prefix.next_tokens
    monkeypatch.setattr(shared_prefix, "next_tokens", lambda of, rows: sizes.append(len(rows)) or following(of, rows))
    monkeypatch.setattr(shared_prefix, "free_bytes", lambda device: 4 * 60 * 2 * 2 * 2 * 8 * 4)
    found = dict(shared_prefix.answers(model, prompts, new_tokens=NEW_TOKENS, ends=[]))
    assert [found[number] for number in range(len(prompts))] == alone
    assert 1 < max(sizes) < 6
