"""A conversation with a model: its history, and the keys and values that one turn leaves for the next."""

from collections.abc import Callable
from typing import Any

from meap_megatron.generation.answer import Answer, Sampling, answer, chat_ids
from meap_megatron.generation.model import OpenModel


class ChatSession:
    """Turns of user and model.

    Attributes:
        messages: the history, of roles system, user and assistant.
    """

    def __init__(
        self, opened: OpenModel, sampling: Sampling, *, system: str | None = None, thinking: bool | None = None
    ) -> None:
        self.opened, self.sampling, self.thinking = opened, sampling, thinking
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self.beginning = len(self.messages)
        self.cache: Any = None
        self.cached: list[int] = []

    def clear(self) -> None:
        """Forget all turns, not the system prompt."""
        del self.messages[self.beginning :]

    def ask(self, text: str, on_text: Callable[[str], None]) -> Answer | None:
        """Take the user's turn and return the model's; None: Ctrl+C ended it, and the history keeps what was shown.

        Args:
            on_text: gets the answer's text as it comes.

        Raises:
            UserError: the template refuses the turn, or the conversation is longer than the model takes; the history
                stays as it was.
        """
        shown: list[str] = []

        def show(new: str) -> None:
            shown.append(new)
            on_text(new)

        messages = [*self.messages, {"role": "user", "content": text}]
        ids = chat_ids(self.opened, messages, thinking=self.thinking)
        # Kept only if all goes well: after an interruption some layers may hold a token more than others.
        cache, self.cache = self._reuse(ids), None
        found = None
        try:
            [found] = answer(self.opened, [ids], self.sampling, on_text=show, cache=cache)
        except KeyboardInterrupt:
            pass
        else:
            self.cache, self.cached = cache, [*ids, *found.ids][: cache.get_seq_length()]
        answered = "".join(shown) if found is None else found.text
        self.messages = [*messages, {"role": "assistant", "content": answered}]
        return found

    def _reuse(self, ids: list[int]) -> Any:
        """Return the cache, cut to what the prompt begins with; its last id is always computed."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        # A sliding window forgets what a cut would need.
        if self.cache is None or not all(type(layer) is DynamicLayer for layer in self.cache.layers):
            return DynamicCache(config=self.opened.model.config)
        same = next((n for n, (a, b) in enumerate(zip(self.cached, ids, strict=False)) if a != b), len(self.cached))
        self.cache.crop(min(same, len(ids) - 1) - len(self.cached))
        return self.cache
