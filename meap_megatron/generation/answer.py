"""Generate: ids of prompts in, answers out, in a batch or token by token as text that is ready to be shown."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meap_megatron.errors import UserError, first_line
from meap_megatron.generation.generation_settings import Sampling
from meap_megatron.generation.model import OpenModel, full_memory_named

CONTEXT = 8
"""Ids of the prompt before an answer that decide how its first token is written (a space or none)."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model generated.

    Attributes:
        text: without special tokens.
        ids: of all generated tokens, the end included.
        ended: the model ended it; False: the limit did.
    """

    text: str
    ids: tuple[int, ...]
    ended: bool


class TextStream:
    """Turns ids into text as they come; a character whose bytes are not all there yet waits."""

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self.tokenizer = tokenizer
        self.context = prompt[-CONTEXT:]
        self.stream = DecodeStream(ids=self.context, skip_special_tokens=True)
        self.ids: list[int] = []
        self.text = ""

    def put(self, number: int) -> str:
        """Take the next id; return the text that is complete with it, often ""."""
        self.ids.append(number)
        new = self.stream.step(self.tokenizer.backend_tokenizer, number) or ""
        self.text += new
        return new

    def end(self) -> str:
        """Return what is left: the bytes of a character that never was completed, as U+FFFD."""
        decode = self.tokenizer.backend_tokenizer.decode
        whole = decode([*self.context, *self.ids], skip_special_tokens=True)
        rest = whole[len(decode(self.context, skip_special_tokens=True)) + len(self.text) :]
        self.text += rest
        return rest


def prompt_ids(opened: OpenModel, text: str) -> list[int]:
    """Return the ids of a text that is to be continued, BOS included if training had it.

    Raises:
        UserError: there are none.
    """
    ids = list(opened.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    if opened.add_bos:
        ids.insert(0, opened.tokenizer.bos_token_id)
    if not ids:
        raise UserError("the prompt is empty, and this model's documents begin without BOS", fix="give it some text")
    return ids


def chat_ids(opened: OpenModel, messages: list[dict[str, Any]], *, thinking: bool | None = None) -> list[int]:
    """Return the ids of a conversation in the chat template, up to where the next answer begins.

    Args:
        messages: of roles system, user and assistant.
        thinking: the template's switch `enable_thinking`, where it has one; None: its default.

    Raises:
        UserError: the template refuses the conversation; with its reason.
    """
    switches = {} if thinking is None else {"enable_thinking": thinking}
    try:
        shown = opened.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switches)
    except Exception as error:
        raise UserError(f"the chat template refuses the conversation: {first_line(error)}") from error
    # The template has written its own special tokens.
    return list(opened.tokenizer(shown, add_special_tokens=False, verbose=False).input_ids)


def room(opened: OpenModel, ids: list[int]) -> int:
    """Return how many tokens fit behind a prompt; a very large number if no limit is known.

    Raises:
        UserError: none does.
    """
    if opened.limit is None:
        return sys.maxsize
    if len(ids) >= opened.limit:
        raise UserError(
            f"the prompt has {len(ids):,} tokens and the model takes {opened.limit:,}, the answer included",
            fix="shorten the prompt",
        )
    return opened.limit - len(ids)


def answer(
    opened: OpenModel,
    prompts: list[list[int]],
    sampling: Sampling,
    *,
    on_text: Callable[[str], None] | None = None,
    cache: Any = None,
) -> list[Answer]:
    """Answer prompts, all at once.

    Args:
        sampling: how tokens are chosen; draws depend on the seed and on the prompts that share the batch.
        on_text: gets the answer's text as it comes; for one prompt only.
        cache: keys and values of a beginning of the prompt, of transformers; it grows by what was read and said.

    Raises:
        UserError: a prompt leaves no room for an answer.
        RunError: the GPU's memory is full.
    """
    import torch
    from transformers.generation.streamers import BaseStreamer

    if on_text is not None and len(prompts) != 1:
        raise ValueError("only a single answer can be streamed")
    limits = [min(sampling.max_tokens, room(opened, ids)) for ids in prompts]
    stream = TextStream(opened.tokenizer, prompts[0])

    class Show(BaseStreamer):
        """Hands text on; the first ids that come are the prompt's."""

        started = False

        def put(self, value: torch.Tensor) -> None:
            if self.started and on_text is not None:
                for number in value.reshape(-1).tolist():
                    on_text(stream.put(number))
            self.started = True

        def end(self) -> None:
            if on_text is not None:
                on_text(stream.end())

    width = max(map(len, prompts))
    pad = next((i for i in (opened.tokenizer.pad_token_id, *opened.ends) if i is not None), 0)
    padded = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=opened.model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=opened.model.device)
    torch.manual_seed(sampling.seed)
    with full_memory_named(), torch.inference_mode():
        found = opened.model.generate(
            padded,
            attention_mask=mask,
            max_new_tokens=max(limits),
            pad_token_id=pad,
            streamer=None if on_text is None else Show(),
            **({} if cache is None else {"past_key_values": cache}),
            **sampling.options(),
        )
    generated = [row[width : width + limit].tolist() for row, limit in zip(found, limits, strict=True)]
    return [_answer(opened, *pair) for pair in zip(prompts, generated, strict=True)]


def _answer(opened: OpenModel, prompt: list[int], ids: list[int]) -> Answer:
    """Return what was generated, up to the first end."""
    last = next((place for place, number in enumerate(ids) if number in opened.ends), None)
    generated = ids if last is None else ids[: last + 1]
    stream = TextStream(opened.tokenizer, prompt)
    for number in generated:
        stream.put(number)
    stream.end()
    return Answer(text=stream.text, ids=tuple(generated), ended=last is not None)
