"""The keys of fine-tuning records: what each means, in which format, and which are refused."""

from meap_megatron.corpus.sft.turns import MEDIA

FORMATS = ("alpaca", "pairs", "sharegpt", "messages")
ALPACA_PROMPTS = ("plain", "stanford")
# What the columns of a map may mean, and the key under which a record then has them.
COLUMNS = {
    "question": "instruction",
    "input": "input",
    "answer": "output",
    "system": "system",
    "history": "history",
    "tools": "tools",
    "messages": "messages",
}
DIALOGUES = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}
INPUTS: tuple[str, ...] = ("input", "context")
ANSWERS: tuple[str, ...] = ("output", "response", "completion", "answer")
# Questions, and the answers that go with them; a record with an instruction is Alpaca's.
PAIRS = {
    "prompt": ("completion", "response", "output", "answer"),
    "question": ("answer", "response", "output", "completion"),
    "query": ("response", "answer", "output", "completion"),
    "input": ("output", "response"),
}
SYSTEMS = ("system", "system_prompt")
OFFERS = ("tools", "functions")
SETTINGS = ("parallel_tool_calls", "function_call", "tool_choice")
"""Settings of a call of an API, which say nothing about what is trained."""
REFUSED = {
    **dict.fromkeys(
        ("chosen", "rejected", "rejected_response", "kto_tag"), "records of preferences are not supported"
    ),
    **dict.fromkeys(MEDIA, "only text is supported"),
    **dict.fromkeys(("weight", "loss_weight"), "a weight belongs to a message, and is 0 or 1"),
    **dict.fromkeys(("train_on_inputs", "train_on_prompt"), "only answers are trained"),
}
NO_EFFECT = {"weight": 1, "loss_weight": 1, "train_on_inputs": False, "train_on_prompt": False}
"""Values of these keys that ask for what happens anyway."""
BESIDE = frozenset((*SYSTEMS, *OFFERS, *SETTINGS, *REFUSED, "chat_template_kwargs"))
"""Keys that a record of any format may have."""
READ = (
    *("instruction", *INPUTS, *ANSWERS, *PAIRS, "history", "label", *BESIDE),
    *(key for keys in DIALOGUES.values() for key in keys),
)
"""All keys of a record that mean something."""
