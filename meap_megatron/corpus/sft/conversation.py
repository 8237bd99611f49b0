"""A conversation as a chat template takes it: messages in order, tools, and what else the template is told."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One message.

    Attributes:
        role: system, developer, user, assistant, tool, or another name that the template knows.
        content: its text, the parts of a list joined; None where a record has null beside tool calls. What a tool returned
            may be any JSON value, which the template gets as it is.
        train: an assistant's words are learned; without meaning for other roles.
        fields: what else the record says of it (tool_calls, reasoning_content, name, ...), given to the template as it is.
    """

    role: str
    content: Any
    train: bool = True
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content where it is text, else ""."""
        return self.content if isinstance(self.content, str) else ""

    @property
    def trained(self) -> bool:
        """Whether it is an answer to learn."""
        return self.role == "assistant" and self.train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages in order.

    Attributes:
        messages: a system prompt of the record is the first of them; an empty one says that there is to be none.
        tools: the functions that the assistant may call, as JSON schemas; None where the record has none.
        template_kwargs: further variables of the chat template.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
