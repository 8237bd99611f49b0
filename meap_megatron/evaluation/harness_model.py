"""The harness's models as this package asks them: many prompts at a time, or through vLLM."""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from meap_megatron.evaluation import shared_prefix

SCORED_TOKENS = {"cpu": 1024, "cuda": 65536}
"""Tokens of a batch of likelihoods at most, as far as there is memory for the logits."""
PORTION = 512
"""Requests that vLLM gets at a time: what a killed run loses at most."""
LOGIT_BYTES = 12
"""Of one entry of the vocabulary: logits, their logarithms, and a copy."""


class SharedPrefixLM(HFLM):
    """The Hugging Face model of the harness, whose prompts share what they begin with."""

    batch_size_per_gpu: int | str

    @cached_property
    def shares(self) -> bool:
        """Whether this model gives the same logits for prompts that share prefixes."""
        return self.backend == "causal" and shared_prefix.can_share(self.model)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text that the model generates after each prompt.

        One prompt at a time (`batch_size` 1), sampling, and models without a cache of keys and values are the harness's.
        """
        kinds: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            kinds.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        settings = [normalize_gen_kwargs(json.loads(kind), self.max_gen_toks) for kind in kinds]
        plain = any(chosen.keys() - {"do_sample", "temperature", "until", "max_gen_toks"} for chosen in settings)
        if self.batch_size == 1 or plain or any(chosen["do_sample"] for chosen in settings) or not self.shares:
            size, self.batch_size_per_gpu = self.batch_size_per_gpu, 1
            try:
                return super().generate_until(requests, disable_tqdm=disable_tqdm)
            finally:
                self.batch_size_per_gpu = size
        found = [""] * len(requests)
        for chosen, numbers in zip(settings, kinds.values(), strict=True):
            self._answer([requests[number].args for number in numbers], numbers, chosen, found)
        return found

    def _answer(self, asked: Sequence[tuple[str, Any]], numbers: list[int], chosen: Any, found: list[str]) -> None:
        """Put the answers to requests of one kind into `found`, and tell the hook of each."""
        room = self.max_length - chosen["max_gen_toks"]
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(chosen["until"], eos=end)
        stops = [one for one in until if one and one != end]
        ends = self.model.generation_config.eos_token_id or []
        ends = {*(ends if isinstance(ends, list) else [ends]), self.eot_token_id}

        def stop(ids: list[int]) -> bool:
            text = self.tok_decode(ids, skip_special_tokens=False) if stops else ""
            return any(one in text for one in stops)

        grown = shared_prefix.answers(
            self.model,
            [self._encode(prompt, room) for prompt, _ in asked],
            new_tokens=chosen["max_gen_toks"],
            ends=ends,
            never=self.model.generation_config.suppress_tokens or (),
            stop=stop,
            rows=None if self.batch_size == "auto" else self.batch_size,
        )
        for place, ids in grown:
            text = postprocess_generated_text(self.tok_decode(ids), stop=until, think_end_token=None)
            found[numbers[place]] = text
            self.cache_hook.add_partial("generate_until", asked[place], text)

    def _encode(self, prompt: str, room: int) -> list[int]:
        ids, _ = self.tok_batch_encode([prompt], left_truncate_len=room, truncation=self.truncation)
        return ids[0].tolist()

    def _batch_scheduler(self, pos: int, n_reordered_requests: Sequence[Any]) -> int:
        """Return how many continuations are scored at a time from one on: all are shorter than it, none runs for trial."""
        _, context, continuation = n_reordered_requests[pos]
        kind = self.device.type
        room = shared_prefix.free_bytes(self.device)
        tokens = SCORED_TOKENS.get(kind, 1024)
        if room is not None:
            tokens = min(tokens, room // (LOGIT_BYTES * self.model.config.get_text_config().vocab_size))
        return max(1, min(self.max_batch_size, tokens // (len(context) + len(continuation))))


def vllm_model(*, ends: Sequence[int], never: Sequence[int], **options: Any) -> Any:
    """Return the harness's vLLM model, which stops at the same tokens as the Hugging Face model would.

    Args:
        ends: tokens that end an answer.
        never: tokens that are not generated.
        options: of the harness's model.
    """
    from lm_eval.models.vllm_causallms import VLLM

    class Served(VLLM):
        # The hook of vLLM's answers gets other options than were asked for: `RecordingLM` asks in portions instead.
        portion = PORTION

        def modify_gen_kwargs(self, *args: Any, **more: Any) -> tuple[dict[str, Any], list[str], int]:
            chosen, until, new_tokens = super().modify_gen_kwargs(*args, **more)
            barred = {"logit_bias": dict.fromkeys(never, -100.0)} if never else {}
            # As the Hugging Face model's answers are: without the token that ends them.
            return {**chosen, "skip_special_tokens": True, "stop_token_ids": list(ends), **barred}, until, new_tokens

    # "vllm": no sampling settings out of the model's generation_config.json.
    return Served(generation_config="vllm", batch_size=PORTION, **options)
