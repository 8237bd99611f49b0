"""Harness models that need no weights, and small data in the published formats."""

import gzip
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from meap_megatron.cli.main import main
from meap_megatron.evaluation.prompt_length import Measure

ESSAY = (
    "People ask why small towns have good bakeries. Nobody knows. The flour is the same everywhere, and so is the "
    "water. But a baker who knows the name of every customer works in another way. He bakes for them. "
)


def evaluated(suite: str, out: Path, *options: str, status: int = 0, **named: Any) -> dict[str, Any]:
    """Run `meap evaluate` on a CPU, `named` options with a value given; return the results document, {} without one."""
    words = [word for name, value in named.items() if value is not None for word in (f"--{name}", str(value))]
    assert main(["evaluate", suite, "--out", str(out), "--device", "cpu", *words, *options]) == status
    path = out / f"{suite}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def samples_of(suite: str, out: Path) -> list[dict[str, Any]]:
    """Return the samples beside a results document."""
    return [json.loads(line) for line in (out / f"{suite}.samples.jsonl").read_text().splitlines()]


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
        if (outputs := document.get("outputs")) is not None:
            return ", ".join(output for output in outputs if output in prompt)
        golds = document.get("answers") or [document["answer"] if "answer" in document else document["target"]]
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


def write_long_context_data(folder: Path) -> Path:
    """Write small data of BABILong, NoLiMa and RULER's questions in the published forms."""
    babilong, needles, books = (
        folder / "babilong",
        folder / "nolima" / "needlesets",
        folder / "nolima" / "rand_shuffle",
    )
    fact = {"input": "Mary went to the park. It rained.", "question": "Where is Mary? ", "target": "park"}
    for number in range(1, 6):
        for length, filler in (("0k", ""), ("1k", ESSAY * 3)):
            place = babilong / length / f"qa{number}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps([{**fact, "input": fact["input"] + filler}] * 3))
    needles.mkdir(parents=True)
    books.mkdir()
    record = {
        "id": "0401",
        "needle": "Actually, {CHAR} lives next to {1}.",
        "questions": {"onehop": "Who has been to {2}?", "twohop": "Who has been to {3}?"},
        "character_set": ["Yuki", "Stuart"],
        "task_template": "A snippet:\n\n{haystack}\n\nQuestion: {question}\n\nOnly the answer.",
        "tests": {
            "T1": {"input_args": ["the opera", "Dresden", "Saxony"]},
            "T2": {"input_args": ["it", "Rome", "Italy"]},
        },
    }
    (needles / "needle_set.json").write_text(json.dumps([record]))
    for number in range(2):
        (books / f"rand_book_{number}.txt").write_text(f"Book {number}.\n" + "The day was long.\nNobody came.\n" * 200)
    passages = [f"The town of number {n} lies by the river {n}." for n in range(30)]
    asked = {
        "question": "Which town?",
        "answers": [{"text": "number 3"}, {"text": "the third"}],
        "is_impossible": False,
    }
    paragraphs = [{"context": passage, "qas": [asked] if n in (3, 13) else []} for n, passage in enumerate(passages)]
    (folder / "dev-v2.0.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    hotpot = [
        {
            "question": "Which?",
            "answer": "river 3",
            "context": [[f"T{n}", [passages[n]]] for n in range(start, start + 3)],
        }
        for start in (1, 20)
    ]
    (folder / "hotpot_dev_distractor_v1.json").write_text(json.dumps(hotpot))
    return folder


class Growing(Measure):
    """Counts 30 % more tokens than there are, as where text that was decoded falls into more pieces."""

    def count(self, prompt: str) -> int:
        return super().count(prompt) * 13 // 10
