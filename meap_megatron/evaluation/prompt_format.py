"""Whether a model is asked through its chat template, and how it decodes: decided once, said in the results.

A model that was trained on conversations answers a bare prompt with nothing or with noise; a base model knows no turns.
So a model is asked through a template if it was fine-tuned here with one, or if its tokenizer has one and the model stops
at the token that ends an answer in it. The last is what tells an instruction-tuned model from a base model whose tokenizer
carries the template of its siblings (Qwen2.5: EOS is <|im_end|> of the one and <|endoftext|> of the other).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation import bos

OPTION = "--apply-chat-template"
STAND_IN = "An answer"
MANY_EMPTY = 0.25
"""Share of empty answers from which on a suite warns."""


@dataclass(frozen=True, kw_only=True)
class ChatPolicy:
    """How prompts are given to a model."""

    apply: bool
    source: str
    """Who decided."""
    stop_ids: tuple[int, ...] = field(default=())
    """Ids that end an answer in the template."""


def wrap(tokenizer: Any, prompt: str) -> str:
    """Return a prompt as the user's turn of a conversation, up to where the answer begins."""
    # Without the thoughts of models that can switch them off: the answers of these suites have few tokens.
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def decide(folder: Path, tokenizer: Any, *, requested: bool | None) -> ChatPolicy:
    """Decide whether a model is asked through its chat template; `requested` is what the user asked for.

    Raises:
        UserError: a template is wanted, or the model was fine-tuned with one, and the tokenizer has none.
    """
    record = bos.read_policy(folder) or {}
    has = bool(getattr(tokenizer, "chat_template", None))
    stops = end_ids(tokenizer) if has else ()
    if requested is not None:
        if requested and not has:
            raise UserError(
                f"{folder}: {OPTION} needs a chat template, and the tokenizer has none (chat_template.jinja)"
            )
        return ChatPolicy(apply=requested, source=OPTION if requested else f"--no-{OPTION[2:]}", stop_ids=stops)
    if record.get("data_kind") == "sft":
        source = f"fine-tuned with the template {record.get('template')!r} ({bos.FILE_NAME})"
        if not has:
            raise UserError(
                f"{folder} was {source}, but its tokenizer has no chat template",
                fix=f"export the model again, or ask it without one (--no-{OPTION[2:]})",
            )
        return ChatPolicy(apply=True, source=source, stop_ids=stops)
    if record.get("data_kind") == "text":
        return ChatPolicy(apply=False, source=f"trained on text ({bos.FILE_NAME})")
    if not has:
        return ChatPolicy(apply=False, source="the tokenizer has no chat template")
    if stops and set(stops) & model_ends(folder, tokenizer):
        return ChatPolicy(
            apply=True, source="the model stops where the tokenizer's chat template ends", stop_ids=stops
        )
    return ChatPolicy(apply=False, source="a base model: it does not stop where the tokenizer's chat template ends")


def end_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the id of the special token that ends an answer in a tokenizer's chat template; () if there is none."""
    messages = [{"role": "user", "content": "A question"}, {"role": "assistant", "content": STAND_IN}]
    try:
        shown = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse anything, in any way
        return ()
    _, found, rest = shown.rpartition(STAND_IN)
    ids = tokenizer(rest, add_special_tokens=False).input_ids if found else []
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    return tuple(number for number in ids if number in special)[:1]


def model_ends(folder: Path, tokenizer: Any) -> set[int]:
    """Return the ids at which a model stops, as its configurations and its tokenizer say."""
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            value = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            found |= set(value) if isinstance(value, list) else {value}
    return {number for number in found if isinstance(number, int)}


def own_decoding(model: Any, *, stop_ids: tuple[int, ...], tokenizer: Any) -> dict[str, Any]:
    """Let a model decode greedily, whatever its generation_config.json says, and return how.

    Kept is where answers end and what must never be generated; `ignored` names the rest, such as a repetition penalty.
    """
    from transformers import GenerationConfig

    stated = model.generation_config
    ends = stated.eos_token_id if isinstance(stated.eos_token_id, list) else [stated.eos_token_id]
    ends = sorted({number for number in (*ends, tokenizer.eos_token_id, *stop_ids) if number is not None})
    kept = {name: getattr(stated, name) for name in ("bos_token_id", "pad_token_id", "suppress_tokens")}
    ignored = {
        name: value
        for name, value in stated.to_diff_dict().items()
        if name not in (*kept, "eos_token_id", "transformers_version", "do_sample") and not name.startswith("_")
    }
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends or None, **kept)
    return {
        "do_sample": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "eos_token_id": ends,
        "suppress_tokens": len(kept["suppress_tokens"] or ()),
        "ignored": {**ignored, **({"do_sample": True} if stated.do_sample else {})},
    }


def empty_answers(answers: list[str], *, applied: bool) -> str | None:
    """Return a warning if an unusual share of answers is empty, or None."""
    empty = sum(not answer.strip() for answer in answers)
    if not answers or empty < MANY_EMPTY * len(answers):
        return None
    hint = (
        f"was it trained with the tokenizer's chat template? (--no-{OPTION[2:]} asks without)"
        if applied
        else f"a model trained on conversations must be asked through its chat template ({OPTION})"
    )
    return f"{empty:,} of {len(answers):,} answers are empty; {hint}"
