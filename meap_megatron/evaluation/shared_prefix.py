"""Greedy answers to many prompts: what prompts share is computed once, and their answers grow side by side.

Prompts are taken in the order of their tokens, so that each shares as much as any does with the one before it: of a
needle at eleven depths of one haystack about half remains to be computed. The keys and values of a prompt are kept as
long as its answer grows; the next token of all of them comes from one pass over the weights, without padding. A prompt
that ends makes room for the next one.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

Token = int
ATTENTION = "meap_rows"
CHUNK = 1024  # tokens computed at a time behind a shared prefix: their mask has CHUNK x length entries
ROWS = {"cpu": 16, "cuda": 64}
"""Answers that grow together at most: more gain nothing on a CPU, whose time goes into reading keys and values."""
MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.7}
"""Of what is free, for keys and values."""
UNKNOWN = ("softcap", "s_aux", "position_bias", "sliding_window")
"""What an attention may be given and `attend` does not compute."""


class Row:
    """A prompt whose answer grows."""

    def __init__(self, number: int, first: Token, cache: DynamicCache, *, new_tokens: int) -> None:
        self.number, self.said = number, [first]
        self.length = cache.get_seq_length()
        self.keys = [self._roomy(layer.keys, new_tokens) for layer in cache.layers]
        self.values = [self._roomy(layer.values, new_tokens) for layer in cache.layers]

    def _roomy(self, kept: torch.Tensor, new_tokens: int) -> torch.Tensor:
        room = kept.new_empty((*kept.shape[:2], self.length + new_tokens, kept.shape[3]))
        room[:, :, : self.length] = kept
        return room


class RowCache(Cache):
    """The keys and values of rows of different lengths; `attend` gets them as lists."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__(layers=[])
        self.rows = rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Store the keys and values of one new token of every row, of shape (rows, heads, 1, size)."""
        found: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for number, row in enumerate(self.rows):
            for out, kept, new in zip(found, (row.keys, row.values), (key_states, value_states), strict=True):
                kept[layer_idx][0, :, row.length] = new[number, :, 0]
                out.append(kept[layer_idx][:, :, : row.length + 1])
        return found


def attend(
    module: Any, query: torch.Tensor, key: Any, value: Any, mask: Any, scaling: float | None = None, **options: Any
) -> tuple[torch.Tensor, None]:
    """Return the attention of one token of every row to the keys of that row, of shape (rows, 1, heads, size)."""
    if not isinstance(key, list) or mask is not None or any(options.get(name) is not None for name in UNKNOWN):
        raise NotImplementedError(f"attention of {type(module).__name__}")
    rows, heads, _, size = query.shape
    # The heads that share keys take the place of tokens: nothing is repeated.
    query = query.reshape(rows, 1, key[0].shape[1], -1, size)
    seen = [scaled_dot_product_attention(*row, scale=scaling) for row in zip(query, key, value, strict=True)]
    return torch.cat(seen).reshape(rows, 1, heads, size), None


AttentionInterface.register(ATTENTION, attend)


@contextlib.contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Let a model use an attention function."""
    before, model.config._attn_implementation = model.config._attn_implementation, name
    try:
        yield
    finally:
        model.config._attn_implementation = before


def next_tokens(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Return the logits of the token behind each row, of shape (rows, vocabulary)."""
    ids = torch.tensor([[row.said[-1]] for row in rows], device=model.device)
    places = torch.tensor([[row.length] for row in rows], device=model.device)
    with attention(model, ATTENTION):
        logits = model(input_ids=ids, position_ids=places, past_key_values=RowCache(rows), use_cache=True).logits
    for row in rows:
        row.length += 1
    return logits[:, -1]


def continue_prompt(model: Any, cache: DynamicCache, tokens: Sequence[Token]) -> torch.Tensor:
    """Add tokens to a cache of one prompt and return the logits behind the last, of shape (1, vocabulary)."""
    ids = torch.tensor([tokens], device=model.device)
    # Without a prefix there is no mask, and nothing is gained by chunks.
    step = CHUNK if cache.get_seq_length() else len(tokens)
    for start in range(0, len(tokens), step):
        out = model(input_ids=ids[:, start : start + step], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1]


def shared(one: Sequence[Token], other: Sequence[Token]) -> int:
    """Return how many tokens two prompts begin with in common."""
    return len(os.path.commonprefix([list(one), list(other)]))


@torch.inference_mode()
def answers(
    model: Any,
    prompts: Sequence[Sequence[Token]],
    *,
    new_tokens: int,
    ends: Collection[Token],
    never: Sequence[Token] = (),
    stop: Callable[[list[Token]], bool] = lambda said: False,
    rows: int | None = None,
) -> Iterator[tuple[int, list[Token]]]:
    """Generate greedy answers; yield the number of a prompt and its answer as soon as it ends.

    Args:
        model: a transformers model that `can_share`.
        prompts: their tokens, at least one each.
        new_tokens: tokens of an answer at most.
        ends: tokens that end an answer and belong to it.
        never: tokens that are not generated.
        stop: tells whether an answer so far has ended.
        rows: answers that grow together; None: what the device has room for.
    """

    def choose(logits: torch.Tensor) -> list[Token]:
        logits = logits.float()
        logits[:, list(never)] = -torch.inf
        return logits.argmax(-1).tolist()

    def over(row: Row) -> bool:
        return row.said[-1] in ends or len(row.said) >= new_tokens or stop(row.said)

    waiting = sorted(range(len(prompts)), key=lambda number: list(prompts[number]), reverse=True)
    cache, held, growing = DynamicCache(config=model.config), list[Token](), list[Row]()
    room = None if rows else free_bytes(model.device)
    most = rows or ROWS.get(model.device.type, 1)
    while waiting or growing:
        while waiting and len(growing) < most and fits(growing, cache, room):
            number = waiting.pop()
            tokens = list(prompts[number])
            # The last token is computed in any case: its logits are wanted.
            common = min(shared(held, tokens), len(tokens) - 1)
            if surplus := cache.get_seq_length() - common:
                cache.crop(-surplus)
            logits = continue_prompt(model, cache, tokens[common:])
            held = tokens
            growing.append(Row(number, choose(logits)[0], cache, new_tokens=new_tokens))
        while growing:
            for row in [row for row in growing if over(row)]:
                growing.remove(row)
                yield row.number, row.said
            if not growing or (waiting and len(growing) < most and fits(growing, cache, room)):
                break
            for row, token in zip(growing, choose(next_tokens(model, growing)), strict=True):
                row.said.append(token)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory for keys and values, or None where it is not known."""
    from meap_megatron.memory import free_memory

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return None if free is None else int(free * MEMORY_SHARE.get(device.type, 0.25))


def fits(growing: Sequence[Row], cache: DynamicCache, room: int | None) -> bool:
    """Return whether one more row of the length of the last prompt fits beside the others and the cache itself."""
    if room is None or not growing:
        return True
    sizes = [sum(kept.nbytes for kept in (*row.keys, *row.values)) for row in growing]
    return sum(sizes) + 2 * max(sizes) <= room


@torch.inference_mode()
def can_share(model: Any) -> bool:
    """Tell whether a model gives the same logits with shared prefixes and rows as without: some keep no such cache."""
    tokens = [1 + number % 7 for number in range(9)]
    wanted = torch.cat(
        [model(torch.tensor([part], device=model.device)).logits[:, -1] for part in (tokens, tokens[:6])]
    )
    cache = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return False
    try:
        continue_prompt(model, cache, [*tokens[:4], 2, 2])
        cache.crop(-2)
        continue_prompt(model, cache, tokens[4:8])
        grown = [Row(0, tokens[8], cache, new_tokens=2)]
        cache.crop(-3)
        grown.append(Row(1, tokens[5], cache, new_tokens=2))
        found = next_tokens(model, grown)
    except (NotImplementedError, TypeError, AttributeError, ValueError, RuntimeError):
        return False
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    return bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())
