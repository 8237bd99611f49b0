"""Every answer of the model, on disk as soon as it is given, so that a killed run asks nothing twice.

`SUITE.responses.jsonl` begins with what the answers depend on (weights, tokenizer, BOS, precision, limit); each further
line is one answer under the hash of its request.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from itertools import batched
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from meap_megatron.atomic import disk_errors
from meap_megatron.corpus.progress import Progress
from meap_megatron.corpus.shard import Advance
from meap_megatron.errors import UserError

FORMAT = 1


def request_key(kind: str, arguments: Sequence[Any]) -> str:
    """Return the hash of a request: its kind, prompt and options."""
    return hashlib.sha256(json.dumps([kind, *arguments], sort_keys=True).encode()).hexdigest()


def responses_file(request: Any, name: str) -> Path:
    """Return where the answers of a suite go: under another name while the results of an earlier run are replaced."""
    return Path(request.out) / (f".{name}.responses.jsonl" if request.overwrite else f"{name}.responses.jsonl")


class Ledger:
    """An append-only file of answers."""

    def __init__(self, path: Path, *, identity: dict[str, Any]) -> None:
        """Open the file, or make it, for answers that depend on `identity`.

        Raises:
            UserError: the file belongs to another model, or is not such a file.
        """
        self.path = path
        self.answers: dict[str, Any] = {}
        header = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        kept = self._read(header) if path.exists() else b""
        self._known = len(self.answers)
        with disk_errors(path):
            if kept:
                # What a killed run wrote of its last line goes: its answer is asked for again.
                os.truncate(path, len(kept))
            self.stream = path.open("a", encoding="utf-8")
            if not kept:
                self._write(header)

    def _read(self, header: str) -> bytes:
        content = self.path.read_bytes()
        kept = content[: content.rfind(b"\n") + 1]
        lines = kept.decode("utf-8").split("\n")[:-1]
        if lines and lines[0] != header:
            raise UserError(
                f"{self.path} holds the answers of another model, tokenizer, BOS policy or precision",
                fix="choose another --out, or --overwrite",
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                record = json.loads(line)
                self.answers[record["key"]] = record["answer"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.path}:{number}: not an answer of a model", fix="start over with --overwrite"
                ) from None
        return kept

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()

    def record(self, key: str, answer: Any) -> None:
        """Write one answer, once."""
        if key not in self.answers:
            self.answers[key] = answer
            with disk_errors(self.path):
                self._write(json.dumps({"key": key, "answer": _plain(answer)}, allow_nan=False))

    def requests(self) -> dict[str, int]:
        """Return how many answers the file held when it was opened, and how many were added, for the results document."""
        return {"known": self._known, "asked": len(self.answers) - self._known}

    def close(self) -> None:
        """Flush to the disk and close."""
        with disk_errors(self.path):
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()


def _plain(answer: Any) -> Any:
    """Return an answer as JSON can hold it: infinity as text, which `float` reads."""
    if isinstance(answer, float) and not math.isfinite(answer):
        return str(answer)
    return [_plain(one) for one in answer] if isinstance(answer, (list, tuple)) else answer


class AnswerProgress(Progress):
    """The line of progress, in answers; on a terminal it is there from the start."""

    def __init__(self, total: int) -> None:
        super().__init__(total, verb="evaluate")
        if self.terminal:
            self._print("\r", "\x1b[K")

    def line(self) -> str:
        """Return the text of the line."""
        left = f"  ETA {self.time_left()}" if self.consumed else ""
        return f"{self.verb}: {min(self.consumed, self.total):,} of {self.total:,} answers{left}"


class Hook:
    """What a harness model calls after every answer, before its batch returns."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.progress: AnswerProgress | None = None

    def add_partial(self, kind: str, arguments: Sequence[Any], answer: Any) -> None:
        """Record one answer."""
        self.record(request_key(kind, arguments), answer)

    def record(self, key: str, answer: Any) -> None:
        """Record the answer to the request with this hash, unless that has been done."""
        if key not in self.ledger.answers:
            self.ledger.record(key, answer)
            if self.progress is not None:
                self.progress.advance(Advance(input_bytes=1, text_bytes=0, num_documents=0))


class RecordingLM(LM):
    """A harness model that asks the model inside only what the ledger does not know."""

    def __init__(self, inner: LM, ledger: Ledger) -> None:
        super().__init__()
        self.inner, self.ledger = inner, ledger
        self.hook = Hook(ledger)
        self.portion: int | None = getattr(inner, "portion", None)
        """Requests that the model gets at a time, if it does not call the hook; None: all."""
        if self.portion is None:
            inner.set_cache_hook(self.hook)

    def _answer(self, kind: str, requests: list[Any]) -> list[Any]:
        keys = [request_key(kind, request.args) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            # The prompt of a sample that does not fit is a placeholder: there is nothing to ask.
            if key not in self.ledger.answers and request.doc.get("fits", True)
        }
        if missing:
            self.hook.progress = AnswerProgress(len(missing))
            for part in batched(missing.items(), self.portion or len(missing)):
                answers = getattr(self.inner, kind)([request for _, request in part], disable_tqdm=True)
                for (key, _), answer in zip(part, answers, strict=True):
                    self.hook.record(key, answer)
            self.hook.progress.finish()
        return [self.ledger.answers.get(key, "") for key in keys]

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Return the text that the model generates after each prompt."""
        return self._answer("generate_until", requests)

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether it is the greedy one."""
        return [(float(value), bool(greedy)) for value, greedy in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Return the log-likelihood of each text."""
        return [float(value) for value in self._answer("loglikelihood_rolling", requests)]
