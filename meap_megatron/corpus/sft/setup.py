"""A template and a tokenizer put together: what the workers load, and what is refused before they start."""

import dataclasses
import hashlib
from functools import cached_property
from pathlib import Path

from meap_megatron.corpus.sft.pieces import Specials, template_specials
from meap_megatron.corpus.sft.render import Renderer, RenderOptions, TemplateRenderer
from meap_megatron.corpus.sft.templates import TEMPLATES, TOKENIZER, Template, template_for
from meap_megatron.corpus.tokenizer import CorpusTokenizer
from meap_megatron.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RendererSpec:
    """What a process needs to load a template; goes to the workers by pickle.

    Attributes:
        tokenizer: folder of the extended tokenizer.
        template: the template, None for the tokenizer's own.
        template_text: its strings, or the source of the chat template.
        bos_id: opens the first turn, or None.
        eos_id: closes an answer, unless the template has an end of its own.
        options: what is common to all templates.
    """

    tokenizer: str
    template: Template | None
    template_text: str
    bos_id: int | None
    eos_id: int | None
    options: RenderOptions

    def load(self) -> Renderer:
        """Make the renderer."""
        if self.template is None:
            from meap_megatron.corpus.sft.chat import ChatRenderer

            return ChatRenderer(self.tokenizer, self.specials, options=self.options)
        return TemplateRenderer(
            self.template, self.specials, bos_id=self.bos_id, eos_id=self.eos_id, options=self.options
        )

    def definition(self) -> str:
        """Return the tokenizer.json in which the special tokens are plain text."""
        return self._parts[0]

    @property
    def specials(self) -> Specials:
        """The special tokens that the template may write."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[str, Specials]:
        definition = (Path(self.tokenizer) / "tokenizer.json").read_text(encoding="utf-8")
        return template_specials(definition, self.template_text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """A template checked against a tokenizer.

    Attributes:
        template: the template, None for the tokenizer's own.
        template_text: its strings, or the source of the chat template.
        fingerprint: SHA-256 (hex) of them.
        definition: tokenizer.json in which the template's special tokens are plain text.
        forbidden_ids: ids that no text may give.
        missing: tokens of the template that the tokenizer lacks.
    """

    template: Template | None
    template_text: str
    fingerprint: str
    definition: str
    forbidden_ids: tuple[int, ...]
    missing: tuple[str, ...]


def fit_template(name: str, tokenizer: CorpusTokenizer, *, source: str) -> Fitted:
    """Check that a tokenizer can write a template.

    Args:
        name: name of the template.
        tokenizer: the extended tokenizer.
        source: where it came from, for messages.

    Raises:
        UserError: it has no EOS token and the template closes answers with it, or it has no chat template.
    """
    eos_id = tokenizer.info.eos_id
    missing: tuple[str, ...] = ()
    template: Template | None = None
    if name == TOKENIZER:
        text = chat_template(tokenizer)
        if text is None:
            raise UserError(
                f"tokenizer {source} has no chat template (chat_template.jinja, or chat_template in "
                f"tokenizer_config.json); use one of --template {', '.join(TEMPLATES)}"
            )
        definition, specials = template_specials(tokenizer.definition, text)
        fingerprint = hashlib.sha256(text.encode("utf-8")).hexdigest()
    else:
        template = template_for(name, template_specials(tokenizer.definition, "")[1].tokens)
        text = template.text
        definition, specials = template_specials(tokenizer.definition, text)
        fingerprint = template.fingerprint
        if template.end is None and eos_id is None:
            raise UserError(
                f"tokenizer {source} has no EOS token, which closes an answer in the template {name!r}; "
                f"name one with --eos-token"
            )
        missing = tuple(marker for marker in template.markers if marker not in specials.tokens)
    # The unknown token is special but not among these: a text may give it.
    special_ids = {*tokenizer.special_ids, *(t.token_id for t in specials.tokens.values() if t.text in text)}
    return Fitted(
        template=template,
        template_text=text,
        fingerprint=fingerprint,
        definition=definition,
        forbidden_ids=tuple(sorted(special_ids)),
        missing=missing,
    )


def chat_template(tokenizer: CorpusTokenizer) -> str | None:
    """Return the source of a tokenizer's chat template (of several, the one called "default"), or None."""
    if "chat_template.jinja" in tokenizer.extra_files:
        return tokenizer.extra_files["chat_template.jinja"].decode("utf-8")
    found = tokenizer.config.get("chat_template")
    if isinstance(found, list):
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None
