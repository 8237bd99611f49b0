"""A judge on this machine: any Hugging Face model folder, through its own chat template if it has one."""

import threading
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_format import end_ids, own_decoding
from meap_megatron.evaluation.prompt_length import load_tokenizer

NEW_TOKENS = 512


class LocalJudge:
    """A local model, greedy."""

    concurrency = 1

    def __init__(self, folder: Path, *, device: str | None = None) -> None:
        """Load the model.

        Raises:
            UserError: transformers cannot load it.
        """
        import torch
        from transformers import AutoModelForCausalLM

        self.tokenizer = load_tokenizer(str(folder))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto")
        except Exception as error:
            raise UserError(f"judge {folder} cannot be loaded: {type(error).__name__}: {error}") from error
        self.model = model.to(device).eval()
        own_decoding(self.model, stop_ids=end_ids(self.tokenizer), tokenizer=self.tokenizer)

    def ask(self, text: str, stop: threading.Event) -> str:
        """Return the model's answer; "" if the question is too long for it."""
        import torch

        ids = self._ids(text)
        limit = getattr(self.model.config, "max_position_embeddings", None)
        room = NEW_TOKENS if limit is None else min(NEW_TOKENS, limit - len(ids))
        if room < 1:
            return ""
        prompt = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            found = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=room,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
            )
        return str(self.tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True))

    def _ids(self, text: str) -> list[int]:
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(f"{text}\n").input_ids)
        shown = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        # The template has written its own special tokens.
        return list(self.tokenizer(shown, add_special_tokens=False).input_ids)
