"""The templates, as data: where the system prompt and the question are, and what closes an answer.

The row of a conversation is

    BOS  first turn's source  answer  end  later turn's source  answer  end ...

A source is encoded as one text and an answer as another, as the official code does. Special tokens in a
template's own strings become their ids when the tokenizer has them; those in the texts of a conversation never do.

`llama3` and `vicuna` are the official code's strings; `alpaca` is Stanford's prompt; the others are the formats that
the models of that name were published with.
"""

import dataclasses
import hashlib
import json
from collections.abc import Container

from meap_megatron.corpus.sft.records import STANFORD_ORDER, STANFORD_TASK

TOKENIZER = "tokenizer"
"""Name of the tokenizer's own chat template."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Template:
    """The strings of one template.

    Attributes:
        opening: source of the first turn with a system prompt; holds {system} and {query}.
        prompt: source of a turn without; holds {query}.
        separator: precedes the source of every later turn.
        system: system prompt of conversations that have none; "" for none.
        end: token that closes an answer; None for the tokenizer's EOS.
        opens: the end of `prompt` that opens an answer, where messages have markup of their own; else "".
        markers: tokens that a tokenizer made for this template has.
    """

    opening: str
    prompt: str
    separator: str
    system: str
    end: str | None = None
    opens: str = ""
    markers: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the strings."""
        strings = dataclasses.asdict(self)
        del strings["opens"]  # a part of `prompt`
        return hashlib.sha256(json.dumps(strings, sort_keys=True).encode()).hexdigest()

    @property
    def text(self) -> str:
        """All strings that the template writes."""
        return self.opening + self.separator + (self.end or "")


LLAMA3_OPENS = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA3 = "<|start_header_id|>user<|end_header_id|>\n\n{query}<|eot_id|>" + LLAMA3_OPENS
CHATML_OPENS = "<|im_start|>assistant\n"
CHATML = "<|im_start|>user\n{query}<|im_end|>\n" + CHATML_OPENS
VICUNA = "USER: {query} ASSISTANT:"
ALPACA = "### Instruction:\n{query}\n\n### Response:"

TEMPLATES: dict[str, Template] = {
    "llama3": Template(
        opening="<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>" + LLAMA3,
        prompt=LLAMA3,
        separator="<|eot_id|>",
        system="You are a helpful, excellent and smart assistant.",
        opens=LLAMA3_OPENS,
        markers=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "vicuna": Template(
        opening="{system}</s>" + VICUNA,
        prompt=VICUNA,
        separator="</s>",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        markers=("</s>",),
    ),
    "chatml": Template(
        opening="<|im_start|>system\n{system}<|im_end|>\n" + CHATML,
        prompt=CHATML,
        separator="\n",
        system="You are a helpful assistant.",
        end="<|im_end|>",
        opens=CHATML_OPENS,
        markers=("<|im_start|>", "<|im_end|>"),
    ),
    "mistral": Template(
        opening="[INST] {system}\n\n{query} [/INST]",
        prompt="[INST] {query} [/INST]",
        separator="",
        system="",
    ),
    "alpaca": Template(
        opening="{system}\n\n" + ALPACA,
        prompt=ALPACA,
        separator="\n\n",
        system=STANFORD_TASK + STANFORD_ORDER,
    ),
}
# An instruct tokenizer's answers end as its other messages do; the official code ends them with EOS and begins a later
# turn with <|eot_id|>.
LLAMA3_INSTRUCT = dataclasses.replace(TEMPLATES["llama3"], separator="", end="<|eot_id|>")
# Later Mistral tokenizers have these marks as tokens, without spaces around them, and then one for the system prompt.
MISTRAL_TOKENS = Template(
    opening="[INST]{system}\n\n{query}[/INST]", prompt="[INST]{query}[/INST]", separator="", system=""
)
MISTRAL_SYSTEM = dataclasses.replace(
    MISTRAL_TOKENS, opening="[SYSTEM_PROMPT]{system}[/SYSTEM_PROMPT][INST]{query}[/INST]"
)


def template_for(name: str, tokens: Container[str], *, instruct: bool = False) -> Template:
    """Return the template of a name as a tokenizer writes it.

    Args:
        name: one of `TEMPLATES`.
        tokens: the tokenizer's special tokens.
        instruct: the tokenizer is a chat model's that ends messages with Llama-3's <|eot_id|>.
    """
    if name == "llama3" and instruct:
        return LLAMA3_INSTRUCT
    if name == "mistral" and "[INST]" in tokens:
        return MISTRAL_SYSTEM if "[SYSTEM_PROMPT]" in tokens else MISTRAL_TOKENS
    return TEMPLATES[name]


DEFAULTS = {
    TOKENIZER: "the tokenizer has a chat template",
    "llama3": "the tokenizer has its tokens",
    "chatml": "the tokenizer has its tokens",
    "alpaca": "the tokenizer has no chat template, and neither Llama-3's tokens nor ChatML's",
}
"""The templates that are used if none is named -> why."""


def default_template(tokens: Container[str], *, has_chat_template: bool) -> str:
    """Return the template that is taken if none is named: the tokenizer's own, else one whose tokens it has."""
    if has_chat_template:
        return TOKENIZER
    for name in ("llama3", "chatml"):
        if all(marker in tokens for marker in TEMPLATES[name].markers):
            return name
    return "alpaca"
