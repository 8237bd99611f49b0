"""One turn of a dialogue to a message: OpenAI's, ShareGPT's and their relatives' names, parts, weights and calls."""

import json
from collections.abc import Mapping
from typing import Any

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.errors import kind_of

CALLS = ("function_call", "tool_call")
"""Roles whose text is a call, or several, as JSON."""
ASSISTANTS = ("gpt", "assistant", "model", "bot", "chatbot", "ai", "bing", "bard", "chatgpt", "claude", *CALLS)
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(ASSISTANTS, "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response"), "tool"),
    "system": "system",
    "developer": "developer",
}
"""What the names of roles mean, in any case; another name is given to the template as it is."""
WEIGHTS = ("train", "training", "weight", "loss_weight", "loss")
"""Keys that say whether a message is trained."""
MEDIA = ("images", "image", "videos", "video", "audios", "audio", "files", "file")
REFUSED = ("train_detail", *MEDIA)
REASONING = ("reasoning", "thinking")
"""Types of parts that hold an assistant's thoughts."""
QUIET = ("tool_call_id", "id", "index")
"""Keys that tie messages together: nothing is lost where a template has no place for them."""


class BadRecord(Exception):
    """A record that is not a conversation; the message says why."""


def read_turn(turn: Any, where: str, unused: set[str]) -> Message:
    """Read one turn.

    Args:
        turn: what a list of turns holds.
        where: its place in the record, for messages.
        unused: takes the names of what is not used.

    Returns:
        The message; `fields` has all keys beside role, content and weights, unchanged.

    Raises:
        BadRecord: a key that is needed is missing or of another kind, or one asks for what training cannot do.
    """
    if not isinstance(turn, dict):
        raise BadRecord(
            f"{where} is {kind_of(turn)}, expected an object with 'role' and 'content', or 'from' and 'value'"
        )
    by_from = turn.get("role") is None and "from" in turn
    role_key = "from" if by_from else "role"
    keys = ("value", "content") if by_from else ("content", "value")
    content_key = next((key for key in keys if key in turn), keys[0])
    named = text_under(turn, role_key, where)
    role = ROLES.get(named.lower(), named)
    for key in REFUSED:
        if turn.get(key):
            raise BadRecord(f"{where}: {key!r} is not supported")
    fields = {key: value for key, value in turn.items() if key not in (role_key, content_key, *WEIGHTS, *REFUSED)}
    train = _trained(turn, role, where)
    content = turn.get(content_key)
    is_call = named.lower() in CALLS
    is_data = (is_call or role == "tool") and _is_data(content)
    if isinstance(content, list) and not is_data:
        content = _joined(content, role, fields, where, unused)
    calls = fields.pop("function_call", None)
    if is_call:
        calls, content = content if is_data else text_under(turn, content_key, where), ""
    if calls:
        fields["tool_calls"] = read_calls(calls, where)
    elif isinstance(fields.get("tool_calls"), str):
        fields["tool_calls"] = parsed(fields["tool_calls"], f"{where}: 'tool_calls'")
    if not is_data and not (content is None and role == "assistant" and fields.get("tool_calls")):
        content = text_under({**turn, content_key: content} if content_key in turn else turn, content_key, where)
    return Message(role=role, content=content, train=train, fields=fields)


def read_calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Return calls, each {"name": ..., "arguments": ...} or JSON of it, in the form that chat templates take.

    Raises:
        BadRecord: they are not of this form.
    """
    calls = parsed(value, f"{where}: the function call") if isinstance(value, str) else value
    made = []
    for call in calls if isinstance(calls, list) else [calls]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise BadRecord(
                f"{where}: the function call is {call!r:.80}, expected an object with 'name' and 'arguments'"
            )
        made.append({"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}})
    return made


def read_tools(value: Any, key: str) -> tuple[dict[str, Any], ...] | None:
    """Return the functions that a record offers, or None for none.

    Args:
        value: a list of JSON schemas, or JSON of it; schemas without {"type": "function", "function": ...} get it.
        key: the record's key, for messages.

    Raises:
        BadRecord: it is nothing of the kind.
    """
    if isinstance(value, str):
        value = parsed(value, repr(key)) if value.strip() else None
    if not value:
        return None
    tools = []
    for tool in value if isinstance(value, list) else [value]:
        tool = parsed(tool, repr(key)) if isinstance(tool, str) else tool
        if not isinstance(tool, dict):
            raise BadRecord(f"{key!r} has an element that is {kind_of(tool)}, expected an object")
        bare = "function" not in tool and "name" in tool
        tools.append({"type": "function", "function": tool} if bare else tool)
    return tuple(tools)


def text_under(record: dict[str, Any], key: str, where: str = "") -> str:
    """Return the text under a key.

    Raises:
        BadRecord: there is none.
    """
    before = f"{where}: " if where else ""
    if key not in record:
        raise BadRecord(f"{before}no key {key!r}, only {sorted(map(str, record))[:8]}")
    if not isinstance(record[key], str):
        raise BadRecord(f"{before}{key!r} is {kind_of(record[key])}, expected a string")
    return record[key]


def parsed(text: str, what: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        BadRecord: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{what} is a text that is not JSON: {error}") from None


def is_empty(value: Any) -> bool:
    """Tell whether nothing is lost with a value."""
    return value is None or (isinstance(value, str | list | dict | tuple) and not value)


def function_names(conversation: Conversation) -> set[str] | None:
    """Return the names of the functions that a conversation offers or calls, or None where it has none to do with any."""
    messages, tools = conversation.messages, conversation.tools or ()
    calls = [call for message in messages for call in message.fields.get("tool_calls") or ()]
    if not tools and not calls and not any(message.role == "tool" for message in messages):
        return None
    made = (entry.get("function", entry) for entry in (*tools, *calls) if isinstance(entry, dict))
    return {entry["name"] for entry in made if isinstance(entry, dict) and isinstance(entry.get("name"), str)}


def official_turns(record: dict[str, Any], turns: list[Any], key: str, unused: set[str]) -> list[Message]:
    """Read as the official code: a leading turn that is not human is left out, and so is a turn out of order.

    Turns of other roles are skipped and keep their place in the order; so a call and its result go, and the answer that
    follows them is the answer to the question before. A dialogue with a question left over trains nothing.
    """
    names = (("human", "user"), ("gpt", "assistant"))
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise BadRecord(f"{key}[{number}] is {kind_of(turn)}, expected an object with 'from' and 'value'")
        for name in ("from", "value"):
            text_under(turn, name, f"{key}[{number}]")
    kept = turns[1:] if turns and turns[0]["from"] not in names[0] else turns
    chosen = [turn for number, turn in enumerate(kept) if turn["from"] in names[number % 2]]
    left_out = [turn["from"] for turn in turns if not any(turn is one for one in chosen)]
    unused.update(f"turns of {name!r} (--multi-turn split)" for name in left_out)
    if len(chosen) % 2:
        return []
    read = [read_turn(turn, key, unused) for turn in chosen]
    text = record.get("system_prompt")
    return [Message(role="system", content=text), *read] if isinstance(text, str) and text else read


def encodes(value: Any) -> bool:
    """Tell whether all texts of some data can be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, Mapping):
        return all(map(encodes, value.keys())) and all(map(encodes, value.values()))
    return not isinstance(value, list | tuple) or all(map(encodes, value))


def _trained(turn: dict[str, Any], role: str, where: str) -> bool:
    """Tell whether a message is trained: weights are 1 or 0, and only an assistant's may be 1."""
    train = True
    for key in WEIGHTS:
        weight = turn.get(key)
        if weight is None:
            continue
        if not isinstance(weight, bool | int | float) or weight not in (0, 1):
            expected = "true or false" if key.startswith("train") else "0 or 1; weights between them are not supported"
            raise BadRecord(f"{where}: {key!r} is {weight!r}, expected {expected}")
        if weight and role != "assistant":
            raise BadRecord(
                f"{where}: {key!r} is {weight!r} for the role {role!r}; only an assistant's words are trained"
            )
        train = train and bool(weight)
    return train


def _is_data(content: Any) -> bool:
    """Tell whether a content is a JSON value that a function took or returned, not text or a list of parts with types."""
    if isinstance(content, list):
        return not all(isinstance(part, dict) and "type" in part for part in content) or not content
    return isinstance(content, dict | bool | int | float)


def _joined(parts: list[Any], role: str, fields: dict[str, Any], where: str, unused: set[str]) -> str:
    """Return the text of a content of parts; thoughts and calls among them go into `fields`."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise BadRecord(f"{where}: 'content' has a part that is {kind_of(part)}, expected an object with 'type'")
        kind = part.get("type", "text")
        key = next((key for key in (str(kind), "text", "value") if part.get(key) is not None), "text")
        value = part.get(key)
        if any(part.get(name) not in (None, True, 1) for name in WEIGHTS):
            raise BadRecord(f"{where}: a part of 'content' has a weight of its own; only whole messages have one")
        if kind in ("text", "input_text", "output_text") and isinstance(value, str):
            texts.append(value)
        elif kind in REASONING and isinstance(value, str) and role == "assistant":
            thoughts.append(value)
        elif kind in CALLS and role == "assistant":
            calls += read_calls(value, where)
        else:
            raise BadRecord(f"{where}: 'content' has a part of the type {kind!r}, which is not supported; text is")
        left = part.keys() - {"type", key, *WEIGHTS}
        unused.update(f"content.{name}" for name in left if not is_empty(part[name]))
    if thoughts:
        fields["reasoning_content"] = "".join(thoughts)
    if calls:
        fields["tool_calls"] = calls
    return "".join(texts)
