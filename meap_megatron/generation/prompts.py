"""Prompts from files: a text a line, or a JSON object a line with `prompt` or `messages`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from meap_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a file.

    Attributes:
        record: the JSON object, which goes into the output with the answer; `{"prompt": text}` of a line of text.
        place: file and line, for messages.
    """

    record: dict[str, Any]
    place: str

    @property
    def messages(self) -> list[dict[str, Any]] | None:
        """The conversation, or None where the record has a text."""
        return self.record.get("messages")


def read_prompts(lines: Iterable[str], *, name: str, jsonl: bool | None = None) -> Iterator[Prompt]:
    """Yield the prompts of a file; empty lines are left out.

    Args:
        jsonl: whether lines are JSON objects; None: if the first one is.

    Raises:
        UserError: a line is not such an object; with its number.
    """
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        if jsonl is None:
            jsonl = _is_record(line)
        place = f"{name}, line {number}"
        yield Prompt(record=_record(line, place) if jsonl else {"prompt": line}, place=place)


def _is_record(line: str) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False
    return isinstance(content, dict) and bool({"prompt", "messages"} & set(content))


def _record(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{place}: not JSON: {error}; each line must be an object with 'prompt' or 'messages'"
        ) from None
    if not isinstance(record, dict) or ("prompt" in record) == ("messages" in record):
        raise UserError(f"{place}: must be an object with either 'prompt' or 'messages', found {line:.80}")
    if "prompt" in record and not isinstance(record["prompt"], str):
        raise UserError(f"{place}: 'prompt' must be a text, found {record['prompt']!r:.80}")
    if "messages" in record:
        messages = record["messages"]
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            raise UserError(f"{place}: 'messages' must be a list of objects with 'role' and 'content'")
        if messages[-1]["role"] == "assistant":
            raise UserError(
                f"{place}: the last message is the assistant's; there is nothing to answer",
                fix="end with a message of the user",
            )
    return record


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and {"role", "content"} <= set(message)
