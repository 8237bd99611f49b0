"""One row of a file to a conversation: Alpaca, ShareGPT and OpenAI messages.

    alpaca    {"instruction": ..., "input": ..., "output": ...}
    sharegpt  {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}], "system_prompt": ...}
    messages  {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}

A row that is none becomes a reason (a str), which the caller counts as a bad row.
"""

import dataclasses
from typing import Any

FORMATS = ("alpaca", "sharegpt", "messages")
COLUMNS = ("instruction", "input", "output", "conversations", "system_prompt", "messages")
ALPACA_PROMPTS = ("plain", "stanford")
HUMAN, GPT = ("human", "user"), ("gpt", "assistant")
# The two prompts of Stanford's Alpaca, cut where its parts meet.
STANFORD_TASK = "Below is an instruction that describes a task. "
STANFORD_TASK_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
)
STANFORD_ORDER = "Write a response that appropriately completes the request."
STANFORD_INSTRUCTION, STANFORD_INPUT = "### Instruction:\n", "\n\n### Input:\n"
STANFORD_RESPONSE = "\n\n### Response:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and its answer."""

    query: str
    answer: str
    train: bool = True  # False: the answer is context only


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns in order; `system` is None when the row has no system prompt of its own."""

    turns: tuple[Turn, ...]
    system: str | None = None


def detect_format(row: dict[str, Any]) -> str | None:
    """Return the format of a row by its keys, or None."""
    for name, key in (("messages", "messages"), ("sharegpt", "conversations"), ("alpaca", "instruction")):
        if key in row:
            return name
    return None


def to_conversation(row: dict[str, Any], kind: str, *, stanford: str | None = None) -> Conversation | str:
    """Read a row.

    Args:
        row: the parsed row.
        kind: one of `FORMATS`.
        stanford: how Alpaca's question is worded: None for the instruction followed by "\\nInput:\\n" and the input;
            "message" for Stanford's whole prompt as the user's message; "template" for a template that has Stanford's
            headings itself.

    Returns:
        The conversation, or the reason why the row is none.
    """
    found = {"alpaca": _alpaca, "sharegpt": _sharegpt, "messages": _messages}[kind]
    conversation = found(row, stanford) if kind == "alpaca" else found(row)  # type: ignore[operator]
    if isinstance(conversation, Conversation):
        for turn in conversation.turns:
            for text in (conversation.system or "", turn.query, turn.answer):
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError:
                    return "a text holds half of a surrogate pair, which is no text"
    return conversation


def _alpaca(row: dict[str, Any], stanford: str | None) -> Conversation | str:
    for key in ("instruction", "output"):
        if reason := _not_text(row, key):
            return reason
    given = row.get("input")
    if given is not None and not isinstance(given, str):
        return f"'input' is a {type(given).__name__}, expected a string"
    instruction, answer = row["instruction"], row["output"]
    if stanford is None:
        query = f"{instruction}\nInput:\n{given}" if given else instruction
        return Conversation(turns=(Turn(query=query, answer=answer),))
    system = (STANFORD_TASK_WITH_INPUT if given else STANFORD_TASK) + STANFORD_ORDER
    parts = instruction + (STANFORD_INPUT + given if given else "")
    if stanford == "template":
        return Conversation(turns=(Turn(query=parts, answer=answer),), system=system)
    query = f"{system}\n\n{STANFORD_INSTRUCTION}{parts}{STANFORD_RESPONSE}"
    return Conversation(turns=(Turn(query=query, answer=answer),))


def _sharegpt(row: dict[str, Any]) -> Conversation | str:
    """Read as the official code: a leading turn that is not human is dropped, a turn out of order is skipped."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return _no_list(row, "conversations")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            return f"conversations[{number}] is a {type(turn).__name__}, expected an object with 'from' and 'value'"
        for key in ("from", "value"):
            if reason := _not_text(turn, key):
                return f"conversations[{number}]: {reason}"
    system = row.get("system_prompt")
    if system is not None and not isinstance(system, str):
        return f"'system_prompt' is a {type(system).__name__}, expected a string"
    if turns and turns[0]["from"] == "system":
        system, turns = turns[0]["value"] or system, turns[1:]
    if turns and turns[0]["from"] not in HUMAN:
        turns = turns[1:]
    texts: list[str] = []
    for number, turn in enumerate(turns):
        if turn["from"] not in HUMAN + GPT:
            break
        if turn["from"] in (GPT if number % 2 else HUMAN):
            texts.append(turn["value"])
    if len(texts) < 2 or len(texts) % 2:
        return (
            f"the dialogue has {len(texts)} usable messages (human and gpt in turn, human first); "
            f"an even number of at least 2 is needed"
        )
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return Conversation(turns=tuple(Turn(query=q, answer=a) for q, a in pairs), system=system or None)


def _messages(row: dict[str, Any]) -> Conversation | str:
    messages = row.get("messages")
    if not isinstance(messages, list):
        return _no_list(row, "messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"messages[{number}] is a {type(message).__name__}, expected an object with 'role' and 'content'"
        for key in ("role", "content"):
            if reason := _not_text(message, key):
                return f"messages[{number}]: {reason}"
        # A parquet column has the key in every message, null where it was not given.
        if not isinstance(message.get("train"), bool | None):
            return f"messages[{number}]: 'train' is {message['train']!r}, expected true or false"
    system = None
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    for number, message in enumerate(messages):
        expected = "assistant" if number % 2 else "user"
        if message["role"] != expected:
            return f"role {message['role']!r} where {expected!r} is expected: user and assistant take turns"
    if len(messages) < 2 or len(messages) % 2:
        return f"{len(messages)} messages beside the system prompt; each question needs an answer"
    pairs = zip(messages[::2], messages[1::2], strict=True)
    turns = tuple(Turn(query=q["content"], answer=a["content"], train=a.get("train") is not False) for q, a in pairs)
    if not any(turn.train for turn in turns):
        return "every answer has 'train' false: the row would train nothing"
    return Conversation(turns=turns, system=system)


def _not_text(record: dict[str, Any], key: str) -> str | None:
    if key not in record:
        return f"no key {key!r}, only {sorted(map(str, record))[:8]}"
    value = record[key]
    return None if isinstance(value, str) else f"{key!r} is {_name(value)}, expected a string"


def _no_list(row: dict[str, Any], key: str) -> str:
    if key not in row:
        return f"no key {key!r}, only {sorted(map(str, row))[:8]}"
    return f"{key!r} is {_name(row[key])}, expected a list"


def _name(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
