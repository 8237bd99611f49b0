"""Which model generates, and how tokens are chosen: a field made by `setting` is an option of generate and chat too."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.declared import setting
from meap_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Which model."""

    model: Path
    """A Hugging Face folder, a save folder of a run, an import, or one iter_* folder."""
    chat: bool | None = None
    """Ask through the chat template; None: models that were trained on conversations."""
    device: str | None = setting(None, "cpu, cuda, cuda:1 (default: cuda if there is one)")
    dtype: str = setting("auto", "default: as stored", choices=("auto", "float32", "bfloat16", "float16"))
    tokenizer: Path | None = setting(None, "tokenizer folder of a checkpoint (default: that of its data)")
    data: str | None = setting(None, "a checkpoint's training data (default: as the run names it)", metavar="PREFIX")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    Raises:
        UserError: an option is out of range; by name.
    """

    max_tokens: int = setting(256, "of an answer (default: %(default)s)", metavar="N")
    temperature: float = setting(0.0, "0: greedy (default)", metavar="T")
    """Above 0, probabilities are those of logits / temperature."""
    top_p: float = setting(1.0, "draw from the most probable tokens that make up P", metavar="P")
    seed: int = setting(0, "of the draws (default: 0)")

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if self.max_tokens < 1:
            raise UserError(f"--max-tokens {self.max_tokens} must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature {self.temperature} must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p {self.top_p} must be above 0 and at most 1")
        if self.top_p < 1 and self.temperature == 0:
            raise UserError(
                f"--top-p {self.top_p} has no effect without --temperature above 0: greedy decoding does not draw"
            )

    def options(self) -> dict[str, Any]:
        """Return the options of transformers' `generate`."""
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
