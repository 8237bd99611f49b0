"""A template and a tokenizer put together: what the workers load, and what is refused before they start."""

import dataclasses
import datetime

from meap_megatron.corpus.sft.anatomy import Anatomy, examine
from meap_megatron.corpus.sft.chat_template import ChatTemplate, Messages, find_chat_template
from meap_megatron.corpus.sft.render import Renderer, RenderOptions, TemplateRenderer
from meap_megatron.corpus.sft.spans import Specials, added_tokens, template_specials
from meap_megatron.corpus.sft.templates import TEMPLATES, TOKENIZER, Template, default_template, template_for
from meap_megatron.errors import UserError
from meap_megatron.tokenizer.load import CorpusTokenizer

EOT = "<|eot_id|>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """A template checked against a tokenizer; goes to the workers by pickle.

    Attributes:
        name: name of the template.
        template: the template: one of ours, or the tokenizer's.
        anatomy: what the tokenizer's writes around messages.
        marks: ordinary added tokens that count as special.
        forbidden_ids: ids that no text may give.
        missing: tokens of the template that the tokenizer lacks.
    """

    name: str
    template: Template | ChatTemplate
    anatomy: Anatomy
    marks: tuple[str, ...]
    forbidden_ids: tuple[int, ...]
    missing: tuple[str, ...] = ()

    @property
    def date(self) -> str | None:
        """The date that the template writes."""
        date = self.template.date if isinstance(self.template, ChatTemplate) else None
        return None if date is None else date.isoformat()

    def load(
        self, definition: str, *, bos_id: int | None, eos_id: int | None, options: RenderOptions
    ) -> tuple[Renderer, str]:
        """Return the renderer, and the tokenizer.json in which special tokens are plain text.

        Args:
            definition: text of the extended tokenizer.json.
            bos_id: opens the first turn, or None.
            eos_id: closes an answer, unless the template has an end of its own.
            options: what is common to all templates.
        """
        definition, specials = template_specials(definition, self.marks)
        if isinstance(self.template, ChatTemplate):
            from meap_megatron.corpus.sft.chat import ChatRenderer

            return ChatRenderer(self.template, self.anatomy, specials, options=options), definition
        return TemplateRenderer(self.template, specials, bos_id=bos_id, eos_id=eos_id, options=options), definition


def fit_template(
    name: str | None,
    tokenizer: CorpusTokenizer,
    *,
    source: str,
    answer_end: str = "template",
    date: datetime.date | None = None,
) -> Fitted:
    """Check that a tokenizer can write a template.

    Args:
        name: name of the template; None for the tokenizer's own, or one that it has the tokens of.
        tokenizer: the extended tokenizer.
        source: where it came from, for messages.
        answer_end: "template", or "eos": answers of our templates end with EOS, as in the official code.
        date: what a chat template writes that asks the clock.

    Raises:
        UserError: it has no EOS token and the template closes answers with it, or it has no chat template.
    """
    special, ordinary = added_tokens(tokenizer.definition)
    chat = find_chat_template(tokenizer)
    name = name or default_template({*special, *ordinary}, has_chat_template=chat is not None)
    if name == TOKENIZER:
        if chat is None:
            raise UserError(
                f"tokenizer {source} has no chat template (chat_template.jinja, or chat_template in "
                f"tokenizer_config.json)",
                fix=f"use one of --template {', '.join(TEMPLATES)}",
            )
        if answer_end == "eos":
            raise UserError(
                "--answer-end eos: the tokenizer's chat template ends the answers itself", fix="name a --template"
            )
        chat.check_syntax(source)
        return _fit_chat(chat, tokenizer, special, ordinary, date)
    instruct = answer_end == "template" and EOT in special and chat is not None and EOT in chat.text
    instruct = instruct or (answer_end == "template" and tokenizer.config.get("eos_token") == EOT)
    template = template_for(name, special, instruct=instruct)
    if answer_end == "eos":
        template = dataclasses.replace(template, end=None)
    if template.end is None and tokenizer.info.eos_id is None:
        raise UserError(
            f"tokenizer {source} has no EOS token, which closes an answer in the template {name!r}",
            fix="name one with --eos-token",
        )
    marks = tuple(token for token in ordinary if token.strip() and token in template.text)
    _, specials = template_specials(tokenizer.definition, marks)
    return Fitted(
        name=name,
        template=template,
        anatomy=Anatomy(),
        marks=marks,
        forbidden_ids=_forbidden(tokenizer, specials, marks),
        missing=tuple(marker for marker in template.markers if marker not in specials.tokens),
    )


def _fit_chat(
    chat: ChatTemplate, tokenizer: CorpusTokenizer, special: list[str], ordinary: list[str], date: datetime.date | None
) -> Fitted:
    chat = dataclasses.replace(chat, date=(date or datetime.date.today()) if chat.writes_date else None)

    def render(messages: Messages, opening: bool) -> str:
        return chat.render(messages, opening=opening)[0]

    anatomy = examine(chat.text, render, specials=special, ordinary=ordinary, named=chat.variables.values())
    _, specials = template_specials(tokenizer.definition, anatomy.marks)
    return Fitted(
        name=TOKENIZER,
        template=chat,
        anatomy=anatomy,
        marks=anatomy.marks,
        forbidden_ids=_forbidden(tokenizer, specials, anatomy.marks),
    )


def _forbidden(tokenizer: CorpusTokenizer, specials: Specials, marks: tuple[str, ...]) -> tuple[int, ...]:
    """Return the ids that no text may give; the unknown token is not among them."""
    return tuple(sorted({*tokenizer.special_ids, *(specials.tokens[mark].token_id for mark in marks)}))
