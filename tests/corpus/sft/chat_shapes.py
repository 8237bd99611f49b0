"""Conversations of many shapes, as rows of a file give them: keyword arguments of `apply_chat_template`."""

from typing import Any

TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "The tide at a port",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def bot(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(name: str = "tide", number: int = 1, arguments: Any = None) -> dict[str, Any]:
    given = {"port": "Brest", "day": 3} if arguments is None else arguments
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": given}}


def result(text: Any, number: int = 1) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": f"call{number:05d}", "name": "tide"}


SYSTEM = {"role": "system", "content": "Be brief."}
Q, A, R, B = user("Name a fruit."), bot("Pear."), user("And another?"), bot("A plum, which is\nsmaller.")
TALK: list[dict[str, Any]] = [Q, A, R, B]
THOUGHT = "<think>\nSix sevens.\n</think>\n\nIt is 42."
CODE = "```python\ndef f(x):\n    if x:\n\n        return  'a'\t#  b\n```"

SHAPES: dict[str, dict[str, Any]] = {
    name: shape if isinstance(shape, dict) else {"messages": shape}
    for name, shape in {
        "one turn": [Q, A],
        "a system prompt": [SYSTEM, Q, A],
        "an empty system prompt": [{"role": "system", "content": ""}, Q, A],
        "two turns": TALK,
        "a system prompt and two turns": [SYSTEM, *TALK],
        "six turns": [*TALK, *TALK, user("Last?"), bot("Fig.")],
        "a user at the end": [*TALK, user("Thanks")],
        "an assistant first": [bot("Hello, how can I help?"), Q, A],
        "a system prompt and an assistant first": [SYSTEM, bot("Hello."), Q, A],
        "two users in a row": [Q, R, A],
        "two assistants in a row": [Q, A, B],
        "a developer": [{"role": "developer", "content": "Be brief."}, Q, A],
        "a system prompt in the middle": [Q, A, SYSTEM, R, B],
        "no user": [SYSTEM, A],
        "space around answers": [user(" hi "), bot("  Hello. \n"), R, bot("\tNo. ")],
        "space in front": [Q, bot("\n\n  Pear.")],
        "newlines behind": [Q, bot("Pear.\n\n"), R, bot("Plum.\n")],
        "an empty answer": [Q, bot("")],
        "an empty answer before another": [Q, bot(""), R, B],
        "an answer of spaces": [Q, bot("  \n ")],
        "letters of many kinds": [user("é漢😀 \u200b\ufeff ẛ̣"), bot("👩‍👩‍👧 नमस्ते \u2028 x\u0301.")],
        "code": [user(CODE), bot(CODE + "\n\n\n\n" + CODE)],
        "the same words everywhere": [user("ok"), bot("ok"), user("ok"), bot("ok"), user("ok"), bot("ok")],
        "words of the template": [
            user("assistant"),
            bot("user\nassistant\nthink ASSISTANT: ### Response:"),
            R,
            bot("end"),
        ],
        "template language": [user("{{ messages }} {% if x %}"), bot("{% endif %}{# a #}{{ bos_token }}")],
        "html": [user("<b>bold</b>"), bot("<p>Use <b>this</b></p>"), R, bot("</p> <a href='x'>")],
        "private-use letters": [user("a\U000f0001b\U000fffff"), bot("\U000f0000c\U0010fffd.")],
        "a thought": [Q, bot(THOUGHT)],
        "thoughts in two turns": [Q, bot(THOUGHT), R, bot(THOUGHT.replace("42", "43"))],
        "a thought without newlines": [Q, bot("<think>a b</think>c d")],
        "a thought that is only closed": [Q, bot("a thought\n</think>\n\nan answer")],
        "an empty thought": [Q, bot("<think>\n\n</think>\n\nPear.")],
        "two thoughts in one answer": [Q, bot("<think>a</think> b <think>c</think> d")],
        "a thought apart": [Q, bot("It is 42.", reasoning_content="Six sevens.")],
        "thoughts apart in two turns": [
            *(Q, bot("It is 42.", reasoning_content="Six sevens.\n")),
            *(R, bot("43.", reasoning_content="\nPlus one.")),
        ],
        "a thought apart under another name": [Q, bot("It is 42.", thinking="Six sevens.")],
        "a user who speaks of thoughts": [user("What is </think> for?"), bot("It closes <think>.")],
        "tools that are not called": {"messages": [Q, A], "tools": [TOOL]},
        "tools and a system prompt": {"messages": [SYSTEM, *TALK], "tools": [TOOL, TOOL]},
        "a call without words": {"messages": [Q, bot(None, tool_calls=[call()])], "tools": [TOOL]},
        "a call with empty words": {"messages": [Q, bot("", tool_calls=[call()])], "tools": [TOOL]},
        "a call with words": {"messages": [Q, bot("I look.", tool_calls=[call()])], "tools": [TOOL]},
        "a call as text": {
            "messages": [Q, bot(None, tool_calls=[call(arguments='{"port": "Brest"}')])],
            "tools": [TOOL],
        },
        "a call without arguments": {"messages": [Q, bot(None, tool_calls=[call(arguments={})])], "tools": [TOOL]},
        "a call and its result": {
            "messages": [Q, bot(None, tool_calls=[call()]), result('{"m": 4.2}'), bot("4.2 metres.")],
            "tools": [TOOL],
        },
        "a result that is an object": {
            "messages": [Q, bot(None, tool_calls=[call()]), result({"m": [4.2, "é"]}), bot("4.2 metres.")],
            "tools": [TOOL],
        },
        "two calls at once": {
            "messages": [
                *(Q, bot(None, tool_calls=[call(), call(number=2, arguments={"port": "Hull"})])),
                *(result("4.2"), result("3.1", 2), bot("4.2 and 3.1.")),
            ],
            "tools": [TOOL],
        },
        "calls one after the other": {
            "messages": [
                *(Q, bot(None, tool_calls=[call()]), result("4.2"), bot(None, tool_calls=[call(number=2)])),
                *(result("3.1", 2), bot("4.2 and 3.1."), R, bot(None, tool_calls=[call(number=3)])),
            ],
            "tools": [TOOL],
        },
        "thoughts around a call": {
            "messages": [
                *(Q, bot("", reasoning_content="I must look.", tool_calls=[call()]), result("4.2")),
                bot("4.2 metres.", reasoning_content="It says 4.2."),
            ],
            "tools": [TOOL],
        },
        "a plan": [Q, bot("Pear.", tool_plan="I will name one.")],
        "variables of the template": {"messages": TALK, "enable_thinking": False, "builtin": True},
        "documents": {"messages": TALK, "documents": [{"title": "Pears", "text": "They are green."}]},
        "a builtin call": {"messages": [Q, bot(None, tool_calls=[call()]), result("4.2"), A], "builtin": True},
        "a name": [{**Q, "name": "Ann"}, A],
    }.items()
}
