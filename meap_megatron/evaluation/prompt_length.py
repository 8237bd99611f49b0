"""Lengths as the evaluated model counts them: its own tokenizer, its own limit, BOS included.

Every prompt must leave room for the tokens that are generated after it; the harness would silently cut the front of a
prompt that does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError, first_line
from meap_megatron.evaluation import bos
from meap_megatron.evaluation.prompt_format import wrap

LIMIT_KEYS = ("max_length", "max_model_len")
"""How the harness's backends call the model's limit among their model arguments."""
LIMIT_FIELDS = ("n_positions", "max_position_embeddings", "n_ctx")
"""How config.json calls it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """Counts tokens with one tokenizer."""

    name: str
    tokenizer: Any
    limit: int | None
    """Tokens that the model takes, prompt and answer together; None if unknown."""
    override: bool | None = None
    """The harness's `add_bos_token`."""
    chat: bool = False
    """Prompts are the user's turn in the tokenizer's chat template, which writes its own BOS."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without special tokens around it."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; a character that the ids hold only in part is left out."""
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip("\ufffd")

    def count(self, prompt: str, start: str = "", *, joint: str = " ") -> int:
        """Return the number of tokens of a prompt as the harness gives it to the model, BOS included."""
        override = False if self.chat else self.override
        special = {} if override is None else {"add_special_tokens": override}
        return len(self.tokenizer(self.wrap(prompt, start, joint=joint), verbose=False, **special).input_ids)

    def wrap(self, prompt: str, start: str = "", *, joint: str = " ") -> str:
        """Return a prompt as the model gets it: as it is, or inside the chat template.

        Args:
            prompt: the question with its context.
            start: words with which the answer begins.
            joint: what is between the two where they are one text.
        """
        return wrap(self.tokenizer, prompt) + start if self.chat else prompt + (joint + start if start else "")

    def longest(self, build: Callable[[int], str], *, length: int, reserve: int, new_tokens: int) -> str | None:
        """Return the prompt with the longest haystack that fits; None if none does.

        Args:
            build: makes the prompt around a haystack of so many tokens.
            length: tokens of prompt and answer together.
            reserve: tokens kept free at first.
            new_tokens: tokens of the answer.
        """
        budget = length - reserve
        while budget >= 0:
            prompt = build(budget)
            # Decoding and encoding again may give a few tokens more: the haystack shrinks by them.
            excess = self.count(prompt) + new_tokens - length
            if excess <= 0:
                return prompt
            budget -= excess
        return None

    def fits(self, prompt: str, *, new_tokens: int) -> bool:
        """Return whether a prompt and the tokens generated after it are within the model's limit."""
        if self.limit is None:
            return True
        # A token covers at least half a byte, whatever the tokenizer, so that short prompts need no counting.
        if 2 * len(self.wrap(prompt).encode()) + new_tokens <= self.limit:
            return True
        return self.count(prompt) + new_tokens <= self.limit


def load_tokenizer(name: str, *, override: bool | None = None, trust_remote_code: bool = False) -> Any:
    """Load a tokenizer as the harness does.

    Raises:
        UserError: there is none, or it makes no tokens of text.
    """
    from transformers import AutoTokenizer

    options = {} if override is None else {"add_bos_token": override}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    except Exception as error:
        raise UserError(
            f"{name} has no tokenizer that transformers can load ({first_line(error):.200})",
            fix="put tokenizer.json and tokenizer_config.json beside the weights",
        ) from error
    if not tokenizer("The quick brown fox", add_special_tokens=False).input_ids:
        raise UserError(
            f"the tokenizer of {name} makes no tokens of text: its vocabulary is empty", fix="copy the files again"
        )
    return tokenizer


def with_offsets(tokenizer: Any, text: str, *, told: str) -> Any:
    """Encode a text with `offset_mapping`, the characters of every token.

    Args:
        told: what is told by them, for the message.

    Raises:
        UserError: the tokenizer does not know them.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} gives no character offsets, by which {told}",
            fix="put a tokenizer.json beside the weights",
        )
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


@cache
def _measure(name: str, limit: int | None, override: bool | None, trust: bool, chat: bool) -> Measure:
    return Measure(
        name=name,
        tokenizer=load_tokenizer(name, override=override, trust_remote_code=trust),
        limit=limit,
        override=override,
        chat=chat,
    )


def load_measure(metadata: dict[str, Any]) -> Measure:
    """Make the measure of a task from what the harness hands to it: model arguments and `--metadata`.

    Args:
        metadata: `tokenizer`, `pretrained` or `model` name the tokenizer; `max_length` or `max_model_len` the limit,
            else config.json does; `chat_template`: prompts go through the tokenizer's chat template.

    Raises:
        UserError: no tokenizer is named or found, or the prompts would not begin as the model was trained.
    """
    named = [metadata.get(key) for key in ("tokenizer", "pretrained", "model")]
    name = next((value for value in named if isinstance(value, str) and value), None)
    if name is None:
        raise UserError(
            "the length of a prompt is counted with the model's tokenizer, and none is named",
            fix='give --model_args pretrained=DIR, or --metadata \'{"tokenizer": "DIR"}\'',
        )
    model = next((value for value in named[1:] if isinstance(value, str) and value), name)
    limits = [int(metadata[key]) for key in LIMIT_KEYS if metadata.get(key) is not None]
    override = metadata.get("add_bos_token")
    measure = _measure(
        name,
        limits[0] if limits else model_limit(model),
        None if override is None else _truth(override),
        _truth(metadata.get("trust_remote_code", False)),
        _truth(metadata.get("chat_template", False)),
    )
    if Path(model).is_dir() and not measure.chat:
        bos.check_harness(model, begins_with_bos=begins_with_bos(measure))
    return measure


def begins_with_bos(measure: Measure) -> bool:
    """Return whether prompts of this measure begin with BOS."""
    special = {} if measure.override is None else {"add_special_tokens": measure.override}
    first = measure.tokenizer("x", **special).input_ids[:1]
    return measure.tokenizer.bos_token_id is not None and first == [measure.tokenizer.bos_token_id]


def model_limit(name: str) -> int | None:
    """Return the number of positions in a model's config.json, or None where it does not say."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError):
        return None
    config = getattr(config, "text_config", None) or config
    return next((int(value) for field in LIMIT_FIELDS if (value := getattr(config, field, None)) is not None), None)


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("1", "true", "yes")
