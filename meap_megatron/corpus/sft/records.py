"""One row of a file to a conversation: Alpaca, ShareGPT and OpenAI messages.

    alpaca    {"instruction": ..., "input": ..., "output": ...}
    sharegpt  {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}], "system_prompt": ...}
    messages  {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}

A row that is none becomes a reason (a str), which the caller counts as a bad row.
"""

from collections.abc import Iterable
from typing import Any

from meap_megatron.corpus.sft.conversation import Conversation, Message

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


def detect_format(row: dict[str, Any]) -> str | None:
    """Return the format of a row by its keys, or None."""
    for name, key in (("messages", "messages"), ("sharegpt", "conversations"), ("alpaca", "instruction")):
        if key in row:
            return name
    return None


def to_conversation(row: dict[str, Any], kind: str | None, *, stanford: str | None = None) -> Conversation | str:
    """Read a row.

    Args:
        row: the parsed row.
        kind: one of `FORMATS`, None to tell it by the keys.
        stanford: how Alpaca's question is worded: None for the instruction followed by "\\nInput:\\n" and the input;
            "message" for Stanford's whole prompt as the user's message; "template" for a template that has Stanford's
            headings itself.

    Returns:
        The conversation, or the reason why the row is none.
    """
    kind = kind or detect_format(row)
    if kind is None:
        return (
            f"the row has the keys {sorted(map(str, row))[:8]}, of no known format: alpaca has 'instruction' and "
            f"'output', sharegpt 'conversations', messages 'messages'; --format forces one"
        )
    found = {"alpaca": _alpaca, "sharegpt": _sharegpt, "messages": _messages}[kind]
    conversation = found(row, stanford) if kind == "alpaca" else found(row)  # type: ignore[operator]
    if isinstance(conversation, Conversation):
        for message in conversation.messages:
            try:
                (message.content or "").encode("utf-8")
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
        return _dialogue([query, answer])
    system = (STANFORD_TASK_WITH_INPUT if given else STANFORD_TASK) + STANFORD_ORDER
    parts = instruction + (STANFORD_INPUT + given if given else "")
    if stanford == "template":
        return _dialogue([parts, answer], system=system)
    query = f"{system}\n\n{STANFORD_INSTRUCTION}{parts}{STANFORD_RESPONSE}"
    return _dialogue([query, answer])


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
    return _dialogue(texts, system=system or None)


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
    trains = [message.get("train") is not False for message in messages]
    if not any(trains[1::2]):
        return "every answer has 'train' false: the row would train nothing"
    return _dialogue([message["content"] for message in messages], system=system, trains=trains)


def _dialogue(texts: list[str], *, system: str | None = None, trains: Iterable[bool] | None = None) -> Conversation:
    """Return questions and answers in turn, behind the system prompt if there is one."""
    opening = [] if system is None else [Message(role="system", content=system)]
    flags = [True] * len(texts) if trains is None else trains
    turns = [
        Message(role="assistant", content=text, train=train) if number % 2 else Message(role="user", content=text)
        for number, (text, train) in enumerate(zip(texts, flags, strict=True))
    ]
    return Conversation(messages=(*opening, *turns))


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
