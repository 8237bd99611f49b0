"""A conversation to the pieces of its rows by the tokenizer's own chat template; answers are found by prefix rendering.

The conversation is rendered whole. For each answer it is rendered again: up to the question, with the opening of an
answer, and up to the answer. Both must be beginnings of the whole. Once more with one private-use character as the
answer: where that character stands, the answer begins, and what follows it is the answer's end.

A special token that a user typed is replaced by one private-use character before rendering and put back as plain text
afterwards, so that the only special tokens are those that the template writes.
"""

from typing import Any

from meap_megatron.corpus.sft.conversation import Conversation
from meap_megatron.corpus.sft.pieces import Piece, PieceBuilder, Specials
from meap_megatron.corpus.sft.render import RenderOptions, Turn, in_turns
from meap_megatron.corpus.sft.roles import END, PROMPT
from meap_megatron.errors import UserError

PRIVATE_USE = (0xF0000, 0x100000)
"""Starts of the two private-use planes, 65,534 characters each."""
PLANE = 65_534
ADVICE = "use --multi-turn split, or one of the templates of --template"
Span = tuple[int, int, int]  # start, stop, role


class ChatRenderer:
    """The chat template of a tokenizer.

    Args:
        folder: the tokenizer, loadable by transformers.
        specials: the special tokens that the template may write.
        options: what is common to all templates.
    """

    def __init__(self, folder: str, specials: Specials, *, options: RenderOptions) -> None:
        from transformers import AutoTokenizer

        self.options = options
        self.specials = specials
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.numbers = {text: number for number, text in enumerate(specials.tokens)}

    def render(self, conversation: Conversation) -> list[list[Piece]] | str:
        """Return the pieces of each row, or the reason why the template does not fit."""
        found = in_turns(conversation)
        if isinstance(found, str):
            return found
        own, all_turns = found
        conversations = [all_turns]
        if self.options.multi_turn == "split":
            conversations = [[turn] for turn in all_turns if turn[1].train]
        system = self.options.system if own is None else own
        rows = []
        for turns in conversations:
            row = self._row(turns, system)
            if isinstance(row, str):
                return row
            rows.append(row)
        return rows

    def _row(self, turns: list[Turn], system: str | None) -> list[Piece] | str:
        texts = [system or "", *(message.content or "" for turn in turns for message in turn)]
        base = self._free_plane(texts)
        if base is None:
            return "the texts hold characters of both private-use planes, with which special tokens are hidden"

        def hide(text: str) -> str:
            return self.specials.pattern.sub(lambda match: chr(base + self.numbers[match[0]]), text)

        messages = [{"role": "system", "content": hide(system)}] if system else []
        messages += [{"role": one.role, "content": hide(one.content or "")} for turn in turns for one in turn]
        try:
            found = self._spans(messages, turns, stand_in=chr(base + PLANE - 1))
        except UserError as error:
            return str(error)
        whole, spans = found
        shown = {base + number: text for text, number in self.numbers.items()}
        builder = PieceBuilder()
        for start, stop, role in spans:
            for part in self.specials.split(whole[start:stop]):
                if isinstance(part, str):
                    builder.text(part.translate(shown), role)
                else:
                    builder.special(part, role)
        return builder.finish()

    def _spans(self, messages: list[dict[str, str]], turns: list[Turn], *, stand_in: str) -> tuple[str, list[Span]]:
        """Return the rendered conversation and its spans, which follow one another.

        Raises:
            UserError: the template refuses the messages, is not monotone, or changes an answer.
        """
        whole = self._text(messages, opening=False)
        first = len(messages) - 2 * len(turns)  # messages before the first question
        spans: list[Span] = []
        done = 0
        for number, (_, answer) in enumerate(turns):
            asked = self._text(messages[: first + 2 * number + 1], opening=True)
            stop_at = first + 2 * number + 2
            answered = self._text(messages[:stop_at], opening=False) if stop_at < len(messages) else whole
            if not (whole.startswith(answered) and answered.startswith(asked) and done <= len(asked)):
                raise UserError(
                    f"the chat template is not monotone: rendered up to answer {number + 1}, the conversation is no "
                    f"beginning of the whole, so the answer cannot be located; {ADVICE}"
                )
            replaced = [*messages[: stop_at - 1], {**messages[stop_at - 1], "content": stand_in}]
            before, found, after = self._text(replaced, opening=False).partition(stand_in)
            start, stop = len(before), len(answered) - len(after)
            same = answered.startswith(before) and answered.endswith(after) and len(asked) <= start <= stop
            # A template may strip an answer.
            if not (found and same and answered[start:stop].strip() == messages[stop_at - 1]["content"].strip()):
                raise UserError(f"the chat template changes the text of answer {number + 1}; {ADVICE}")
            role = self.options.answer_role(answer)
            spans += [(done, start, PROMPT), (start, stop, role)]
            spans.append((stop, len(answered), END if answer.train else PROMPT))
            done = len(answered)
        return whole, [*spans, (done, len(whole), PROMPT)]

    def _text(self, messages: list[dict[str, str]], *, opening: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)
        except Exception as error:  # whatever a template raises, jinja's or Python's
            raise UserError(f"the chat template refuses the conversation: {error}") from None

    def _free_plane(self, texts: list[str]) -> int | None:
        """Return the start of a private-use plane that no text uses."""
        for base in PRIVATE_USE:
            if not any(
                base <= ord(char) < base + PLANE
                for text in texts
                if max(text, default="") >= chr(base)
                for char in text
            ):
                return base
        return None
