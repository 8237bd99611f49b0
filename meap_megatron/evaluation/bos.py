"""Whether a prompt begins with BOS: decided by how the model was trained, recorded beside it, enforced at evaluation.

A model trained without BOS and evaluated with it (or the other way round) loses points without a word. The export
writes `meap_eval.json` beside the Hugging Face files:

    {"format_version": 1, "add_bos": true, "tokenizer_fingerprint": "...", ...}

`add_bos` says whether the training documents began with BOS, or is null where nobody knows; the fingerprint is that of
the dataset's sidecar, or null. Where the file or the answer is absent, the tokenizer's own default holds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError

FILE_NAME = "meap_eval.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BosPolicy:
    """How prompts begin in one run."""

    add_bos: bool
    source: str
    """Who decided: meap_eval.json, --bos or --no-bos, or the tokenizer's default."""
    override: bool | None
    """What the harness is told (`add_bos_token`); None where the tokenizer's default is already right."""


def read_policy(folder: str | Path) -> dict[str, Any] | None:
    """Return the content of a model's `meap_eval.json`, or None where there is no such file.

    Raises:
        UserError: the file is not of this format.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})", fix="export the model again") from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: 'format_version' must be {FORMAT_VERSION}, found {content!r:.80}", fix="export the model again"
        )
    if not isinstance(content.get("add_bos"), bool | None):
        raise UserError(f"{path}: 'add_bos' must be true, false or null, found {content.get('add_bos')!r}")
    return content


def trained_with_bos(folder: str | Path) -> bool | None:
    """Return whether a model's training documents began with BOS, or None where it is not recorded."""
    return (read_policy(folder) or {}).get("add_bos")


def adds_bos(tokenizer: Any) -> bool:
    """Return whether a tokenizer puts BOS before a text by default."""
    return tokenizer.bos_token_id is not None and tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]


def decide(folder: str | Path, tokenizer: Any, *, requested: bool | None = None) -> BosPolicy:
    """Decide whether prompts begin with BOS; `tokenizer` is the model's, loaded without options.

    Raises:
        UserError: the request contradicts `meap_eval.json`, or BOS is wanted of a tokenizer that has none.
    """
    trained, default = trained_with_bos(folder), adds_bos(tokenizer)
    if trained is not None and requested not in (None, trained):
        raise UserError(
            f"{Path(folder) / FILE_NAME} says that the model was trained {_with(trained)} BOS, and the run "
            f"was asked for {'--bos' if requested else '--no-bos'}",
            fix="leave the option out",
        )
    if trained is not None:
        add, source = trained, FILE_NAME
    elif requested is not None:
        add, source = requested, "--bos" if requested else "--no-bos"
    else:
        add, source = default, "tokenizer default"
    if add and tokenizer.bos_token_id is None:
        raise UserError(
            f"{folder}: {source} asks for BOS, but the tokenizer has no BOS token", fix="export the model again"
        )
    return BosPolicy(add_bos=add, source=source, override=None if add == default else add)


def check_harness(folder: str | Path, *, begins_with_bos: bool) -> None:
    """Refuse a run of plain `lm_eval` whose prompts begin otherwise than the model's `meap_eval.json` says.

    Raises:
        UserError: they do.
    """
    trained = trained_with_bos(folder)
    if trained is not None and trained != begins_with_bos:
        raise UserError(
            f"{Path(folder) / FILE_NAME} says that the model was trained {_with(trained)} BOS, but the prompts of this "
            f"run would be {_with(begins_with_bos)} it",
            fix=f"add add_bos_token={trained} to --model_args",
        )


def _with(bos: bool) -> str:
    return "with" if bos else "without"
