"""The chat template of a tokenizer, rendered by transformers as `apply_chat_template` does."""

import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from meap_megatron.corpus.sft.clock import freeze, writes_date
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import CorpusTokenizer

DEFAULT, TOOL_USE = "default", "tool_use"
VARIABLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
RESERVED = frozenset(
    ("conversations", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message")
)
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
END_GENERATION = re.compile(r"\{%[-+]?\s*endgeneration\s*[-+]?%\}")
Messages = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The chat templates of a tokenizer; goes to the workers by pickle.

    Attributes:
        sources: by name; `tool_use`, where there is one, is taken for conversations with tools, else `default`.
        variables: the tokenizer's named special tokens.
        date: what a template that asks the clock writes; None where none does.
    """

    sources: Mapping[str, str]
    variables: Mapping[str, str]
    date: datetime.date | None = None

    @property
    def text(self) -> str:
        """The sources of all templates."""
        return "\n".join(self.sources.values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the sources."""
        one = list(self.sources) == [DEFAULT]
        text = self.sources[DEFAULT] if one else json.dumps(dict(self.sources), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    @property
    def writes_date(self) -> bool:
        """Whether a template asks the clock."""
        return writes_date(self.text)

    def check_syntax(self, source: str) -> None:
        """Refuse templates that Jinja cannot parse.

        Args:
            source: the tokenizer, for the message.

        Raises:
            UserError: names the template and the line.
        """
        from jinja2 import Environment, TemplateSyntaxError

        environment = Environment(extensions=["jinja2.ext.loopcontrols"])
        for name, text in self.sources.items():
            try:
                environment.parse(END_GENERATION.sub("", GENERATION.sub("", text)))
            except TemplateSyntaxError as error:
                raise UserError(
                    f"tokenizer {source}: its {name} chat template is not valid Jinja, line {error.lineno}: "
                    f"{error.message}",
                    fix="correct it, or use another --template",
                ) from None

    def render(
        self,
        messages: Messages,
        *,
        tools: list[dict[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        opening: bool = False,
    ) -> tuple[str, list[tuple[int, int]] | None]:
        """Return the text of a conversation, and the spans of its `{% generation %}` blocks if the template has them.

        Args:
            messages: as `apply_chat_template` takes them; keys of value None are left out, as it does.
            tools: JSON schemas of functions.
            variables: further variables of the template.
            opening: end with what opens an answer.

        Raises:
            UserError: the template refuses the messages.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        further = dict(variables or {})
        if reserved := RESERVED.intersection(further):
            raise UserError(
                f"the template variable {min(reserved)!r} is reserved; a record may not set it",
                fix="give the key another name",
            )
        source, dates = self._frozen[TOOL_USE if tools is not None and TOOL_USE in self.sources else DEFAULT]
        blocks = GENERATION.search(source) is not None
        try:
            texts, spans = render_jinja_template(
                conversations=[[{k: v for k, v in one.items() if v is not None} for one in messages]],
                tools=tools,
                documents=further.pop("documents", None),
                chat_template=source,
                return_assistant_tokens_mask=blocks,
                add_generation_prompt=opening,
                **{**self.variables, **further, **dates},
            )
        except Exception as error:  # whatever a template raises, jinja's or Python's
            raise UserError(f"the chat template refuses the conversation: {error}") from None
        return texts[0], spans[0] if blocks else None

    @cached_property
    def _frozen(self) -> dict[str, tuple[str, dict[str, Any]]]:
        return {
            name: freeze(source, self.date) if self.date is not None and writes_date(source) else (source, {})
            for name, source in self.sources.items()
        }


def find_chat_template(tokenizer: CorpusTokenizer) -> ChatTemplate | None:
    """Return the chat template of a tokenizer, or None."""
    found = tokenizer.config.get("chat_template")
    if "chat_template.jinja" in tokenizer.extra_files:
        found = tokenizer.extra_files["chat_template.jinja"].decode("utf-8")
    if isinstance(found, list):
        found = {str(entry.get("name")): entry.get("template") for entry in found if isinstance(entry, dict)}
    elif not isinstance(found, dict):
        found = {DEFAULT: found}
    sources = {name: found[name] for name in (DEFAULT, TOOL_USE) if isinstance(found.get(name), str)}
    if DEFAULT not in sources:
        return None
    variables = {name: tokenizer.config[name] for name in VARIABLES if isinstance(tokenizer.config.get(name), str)}
    return ChatTemplate(sources=sources, variables=variables)
