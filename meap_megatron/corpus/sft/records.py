"""One record of a file to a conversation, whatever its format; no key with a value is ignored silently.

    alpaca    {"instruction": ..., "input": ..., "output": ...}
    pairs     {"prompt": ..., "completion": ...}, {"question": ..., "answer": ...} and the like
    sharegpt  {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
    messages  {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}

A record that is not one becomes a reason (a str), which the caller counts as a bad record.
"""

import dataclasses
from collections.abc import Collection, Container, Mapping
from typing import Any

from meap_megatron.corpus.sft.conversation import Conversation, Message
from meap_megatron.corpus.sft.record_keys import (
    ANSWERS,
    BESIDE,
    COLUMNS,
    DIALOGUES,
    INPUTS,
    NO_EFFECT,
    OFFERS,
    PAIRS,
    REFUSED,
    SYSTEMS,
)
from meap_megatron.corpus.sft.turns import (
    QUIET,
    BadRecord,
    encodes,
    is_empty,
    official_turns,
    parsed,
    read_tools,
    read_turn,
    text_under,
)
from meap_megatron.errors import kind_of

# The two prompts of Stanford's Alpaca, cut where its parts meet.
STANFORD_TASK = "Below is an instruction that describes a task. "
STANFORD_TASK_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
)
STANFORD_ORDER = "Write a response that appropriately completes the request."
STANFORD_INSTRUCTION, STANFORD_INPUT = "### Instruction:\n", "\n\n### Input:\n"
STANFORD_RESPONSE = "\n\n### Response:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """How records are read; goes to the workers by pickle.

    Attributes:
        format: one of `FORMATS`, None to tell it by its keys.
        columns: what a column means (a key of `COLUMNS`) -> its name in the records.
        stanford: how Alpaca's question is worded: None for the instruction followed by "\\nInput:\\n" and the input;
            "message" for Stanford's whole prompt as the user's message; "template" for a template that has Stanford's
            headings itself.
        official: read ShareGPT's dialogues as the official code does: turns of human and gpt, all others left out.
        known: names of keys of messages, and of template variables, that the template uses.
        ignored: keys of records that are not used and need not be named.
    """

    format: str | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stanford: str | None = None
    official: bool = False
    known: Container[str] = ()
    ignored: Collection[str] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A record that was read.

    Attributes:
        conversation: what it says.
        unused: names of keys that hold something and are not used.
    """

    conversation: Conversation
    unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dropped:
    """A record that is in order and gives nothing to train."""

    kind: str
    unused: tuple[str, ...] = ()


def detect_format(record: dict[str, Any]) -> str | None:
    """Return the format of a record by its keys, or None."""
    for name, keys in DIALOGUES.items():
        if not all(is_empty(record.get(key)) for key in keys):
            return name
    if "instruction" in record:
        return "alpaca"
    if any(question in record and any(answer in record for answer in answers) for question, answers in PAIRS.items()):
        return "pairs"
    return next((name for name, keys in DIALOGUES.items() if any(key in record for key in keys)), None)


def to_record(record: dict[str, Any], options: RecordOptions) -> Record | Dropped | str:
    """Read a record.

    Returns:
        What was read, why it is dropped, or why it is not a record.
    """
    unused: set[str] = set()
    try:
        if options.columns:
            record = _renamed(record, options.columns, unused)
        conversation, used = _conversation(record, options, unused)
    except BadRecord as error:
        return str(error)
    texts = "".join(message.text for message in conversation.messages)
    data = [message.fields for message in conversation.messages if message.fields]
    data += [message.content for message in conversation.messages if not isinstance(message.content, str)]
    if not encodes(texts) or not encodes([*data, conversation.tools, conversation.template_kwargs]):
        return "a text contains half of a surrogate pair, which is not text"
    unused.update(str(key) for key in record if key not in used and not is_empty(record[key]))
    named = tuple(sorted(name for name in unused if name not in options.ignored))
    if not any(message.trained for message in conversation.messages):
        return Dropped("unanswered", named)
    return Record(conversation=conversation, unused=named)


def _conversation(record: dict[str, Any], options: RecordOptions, unused: set[str]) -> tuple[Conversation, set[str]]:
    """Return what a record says, and the keys that were read."""
    kind = options.format or ("messages" if "messages" in options.columns else "pairs" if options.columns else None)
    kind = kind or detect_format(record)
    for key in record:
        if key in REFUSED and not is_empty(record[key]) and (key not in NO_EFFECT or record[key] != NO_EFFECT[key]):
            raise BadRecord(f"{key!r}: {REFUSED[key]}")
    if kind is None:
        if "text" in record:
            raise BadRecord("the record has a 'text' and no question with its answer: meap preprocess text reads it")
        raise BadRecord(
            f"the record has the keys {sorted(map(str, record))[:8]}, of no known format: alpaca has 'instruction' and "
            f"'output', pairs 'prompt' and 'completion' or 'question' and 'answer', sharegpt 'conversations', messages "
            f"'messages'; --columns question=KEY,answer=KEY names other keys"
        )
    used = set(BESIDE)
    if kind in DIALOGUES:
        key = next((key for key in DIALOGUES[kind] if key in record), DIALOGUES[kind][0])
        messages = _dialogue(record, key, options, unused)
        used.add(key)
    else:
        messages = _single(record, kind, options, used, unused)
    if options.official and kind == "sharegpt":
        used -= {"system", *OFFERS, "chat_template_kwargs"}
        return Conversation(messages=tuple(messages)), used
    for message in messages:
        for name, value in message.fields.items():
            quiet = name in QUIET or name == "tool_calls" or (name == "name" and message.role == "tool")
            if not quiet and name not in options.known and not is_empty(value):
                unused.add(f"messages.{name}")
    offers = [read_tools(record[key], key) for key in OFFERS if record.get(key)]
    variables = record.get("chat_template_kwargs") or {}
    if not isinstance(variables, dict):
        raise BadRecord(f"'chat_template_kwargs' is {kind_of(variables)}, expected an object")
    unused.update(f"chat_template_kwargs.{name}" for name in variables if name not in options.known)
    tools = next((one for one in offers if one), None)
    return Conversation(messages=tuple(messages), tools=tools, template_kwargs=variables), used


def _renamed(record: dict[str, Any], columns: Mapping[str, str], unused: set[str]) -> dict[str, Any]:
    """Return a record with its mapped columns under the names that they mean."""
    rest = {key: value for key, value in record.items() if key not in columns.values()}
    made: dict[str, Any] = {}
    for what, column in columns.items():
        if column in record:
            made[COLUMNS[what]] = record[column]
        elif what in ("question", "answer", "messages"):
            raise BadRecord(f"no key {column!r} (--columns {what}={column}), only {sorted(map(str, record))[:8]}")
        else:
            unused.add(f"--columns {what}={column}: no such key")
    taken = {COLUMNS[what] for what in columns}
    unused.update(key for key, value in rest.items() if key in taken and not is_empty(value))
    return {**rest, **made}


def _single(
    record: dict[str, Any], kind: str, options: RecordOptions, used: set[str], unused: set[str]
) -> list[Message]:
    """Read a question and its answer, behind a system prompt and what was said before."""
    if kind == "alpaca" or options.columns:
        question, answers, inputs = "instruction", ANSWERS, INPUTS
    else:
        pairs = ((key, answers) for key, answers in PAIRS.items() if key in record)
        question, answers = next(pairs, ("prompt", PAIRS["prompt"]))
        inputs = tuple(key for key in INPUTS if key != question)
    answer = next((key for key in answers if key in record), answers[0])
    extra = next((key for key in inputs if not is_empty(record.get(key))), inputs[0])
    used.update({question, answer, extra, "history"})
    if isinstance(record.get("label"), bool) and kind == "pairs":
        raise BadRecord("'label': records of preferences are not supported")
    given = record.get(extra)
    if given is not None and not isinstance(given, str):
        raise BadRecord(f"{extra!r} is {kind_of(given)}, expected a string")
    messages = _history(record.get("history"), unused)
    if kind == "pairs" and any(isinstance(record.get(key), list) for key in (question, answer)):
        # TRL's: messages, of which those of the answer are trained.
        asked = _turns(record, question, "user", unused)
        messages += [dataclasses.replace(one, train=one.role != "assistant") for one in asked]
        return _with_system(record, [*messages, *_turns(record, answer, "assistant", unused)], unused)
    query, reply = text_under(record, question), text_under(record, answer)
    wording = options.stanford if kind == "alpaca" else None
    default = None
    if wording is None:
        query = f"{query}\nInput:\n{given}" if given else query
    else:
        task = (STANFORD_TASK_WITH_INPUT if given else STANFORD_TASK) + STANFORD_ORDER
        query += STANFORD_INPUT + given if given else ""
        if wording == "message":
            query = f"{task}\n\n{STANFORD_INSTRUCTION}{query}{STANFORD_RESPONSE}"
        else:
            default = task
    messages = _with_system(record, messages, unused, default=default)
    return [*messages, Message(role="user", content=query), Message(role="assistant", content=reply)]


def _history(value: Any, unused: set[str]) -> list[Message]:
    """Read what was said before: pairs of a question and its answer, or turns."""
    if is_empty(value):
        return []
    if not isinstance(value, list):
        raise BadRecord(f"'history' is {kind_of(value)}, expected a list of pairs of a question and its answer")
    messages: list[Message] = []
    for number, pair in enumerate(value):
        if isinstance(pair, dict):
            messages.append(read_turn(pair, f"history[{number}]", unused))
        elif isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair):
            messages += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
        else:
            raise BadRecord(f"history[{number}] is {pair!r:.80}, expected a question and its answer")
    return messages


def _turns(record: dict[str, Any], key: str, role: str, unused: set[str]) -> list[Message]:
    """Read a text, a message of this role, or a list of messages."""
    if isinstance(record.get(key), list):
        return [read_turn(turn, f"{key}[{number}]", unused) for number, turn in enumerate(record[key])]
    return [Message(role=role, content=text_under(record, key))]


def _dialogue(record: dict[str, Any], key: str, options: RecordOptions, unused: set[str]) -> list[Message]:
    """Read a list of turns, also one that is JSON in a text."""
    turns = record.get(key)
    if isinstance(turns, str):
        turns = parsed(turns, repr(key))
    if key not in record:
        raise BadRecord(f"no key {key!r}, only {sorted(map(str, record))[:8]}")
    if not isinstance(turns, list):
        raise BadRecord(f"{key!r} is {kind_of(turns)}, expected a list")
    if options.official and key in DIALOGUES["sharegpt"]:
        return official_turns(record, turns, key, unused)
    messages = [read_turn(turn, f"{key}[{number}]", unused) for number, turn in enumerate(turns)]
    if key in DIALOGUES["sharegpt"] and messages and messages[0].role == "system" and not messages[0].content:
        messages = messages[1:]  # as the official code: none of its own
    return _with_system(record, messages, unused)


def _with_system(
    record: dict[str, Any], messages: list[Message], unused: set[str], *, default: str | None = None
) -> list[Message]:
    """Return the messages behind the system prompt that the record has beside them, unless they begin with one."""
    own = messages[0].content if messages and messages[0].role in ("system", "developer") else None
    found = own
    for key in SYSTEMS:
        text = record.get(key)
        if not isinstance(text, str | None):
            raise BadRecord(f"{key!r} is {kind_of(text)}, expected a string")
        if not text or text == found:
            continue
        if found is None:
            found = text
        else:
            unused.add(key)
    found = found or default
    return messages if own is not None or not found else [Message(role="system", content=found), *messages]
