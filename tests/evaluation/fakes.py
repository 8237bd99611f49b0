"""Harness models that need no weights, and small data in the published formats."""

import gzip
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from meap_megatron.evaluation.prompt_length import Measure

ESSAY = (
    "People ask why small towns have good bakeries. Nobody knows. The flour is the same everywhere, and so is the "
    "water. But a baker who knows the name of every customer works in another way. He bakes for them. "
)


class Fake(LM, ABC):
    """A model without likelihoods, whose answer to a sample is `reply(document, prompt)`."""

    @abstractmethod
    def reply(self, document: dict[str, Any], prompt: str) -> str:
        """Answer one sample."""

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        answers = []
        for request in requests:
            prompt, options = request.args
            answers.append(self.reply(request.doc, prompt))
            self.cache_hook.add_partial("generate_until", (prompt, options), answers[-1])
        return answers

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        raise AssertionError("these tasks only generate")

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise AssertionError("these tasks only generate")


class Cheat(Fake):
    """Copies the answer out of the prompt, and only if it is there."""

    def reply(self, document: dict[str, Any], prompt: str) -> str:
        # Answers of several words may stand apart in the prompt (M-RS keywords), so each word is looked for.
        golds = document.get("answers") or [document["answer"]]
        return next((g for g in golds if all(word in prompt for word in g.split())), "")


class Silent(Fake):
    """Never answers."""

    def reply(self, document: dict[str, Any], prompt: str) -> str:
        return ""


def write_essays(folder: Path, *, count: int = 3, repeat: int = 20) -> Path:
    """Write essays of a few kilobytes each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.txt").write_text(f"Essay {number}. " + ESSAY * repeat)
    return folder


def write_gz(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write a .jsonl.gz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    return path


class Growing(Measure):
    """Counts 30 % more tokens than there are, as where text that was decoded falls into more pieces."""

    def count(self, prompt: str) -> int:
        return super().count(prompt) * 13 // 10
