"""The judge of a summary: what it is asked, how its answer is read, and every judgement kept as soon as it is given.

The paper's judge sees the model's summary and the human one, not the article: it measures likeness to the reference, not
faithfulness to the source (protocol 5e). A judge is an OpenAI-compatible endpoint or a local model; an answer without
score is asked for once more, then counted as 0 and shown as unparsed.
"""

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from meap_megatron.errors import UserError
from meap_megatron.evaluation import identity
from meap_megatron.evaluation.response_cache import Ledger, request_key

INSTRUCTION = (
    'You are given two texts. "model output" is what a model wrote; "predicted label" is the label that a human '
    "annotator wrote by hand. Compare the two and decide whether the model output is similar to the label. Return 1 if "
    "it is similar and 0 if it is not. Explain your decision. End with a line of exactly this form, where xx is 0 or "
    "1:\nScore: xx"
)
SCORE = re.compile(r"score:[\s*]*([01])\b(?!\.\d)", re.IGNORECASE)
ATTEMPTS = 2
NO_JUDGE = "none"


def question(summary: str, reference: str) -> str:
    """Return what the judge is asked about one summary."""
    return f'{INSTRUCTION}\n\n"model output": {summary}\n\n"predicted label": {reference}'


def parse(answer: str) -> int | None:
    """Return the last score of an answer, or None if it has none."""
    found = SCORE.findall(answer)
    return int(found[-1]) if found else None


class Judge(Protocol):
    """Somebody who answers questions."""

    concurrency: int

    def ask(self, text: str, stop: threading.Event) -> str:
        """Return the answer; give up early when `stop` is set."""
        ...


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """A judge as the user named it."""

    name: str
    """How it is called in the results."""
    url: str | None = None
    """Of an OpenAI-compatible endpoint, up to and with its version; None for a local model."""
    folder: Path | None = None
    key_variable: str | None = None
    """Environment variable of the API key; None for the usual ones."""

    def identity(self) -> dict[str, Any]:
        """Return what a judgement depends on; never a key."""
        if self.folder is None:
            return {"name": self.name, "kind": "openai_api", "url": self.url}
        identity.check_model(self.folder)
        weights = identity.model_identity(self.folder)["fingerprint"]
        return {"name": self.name, "kind": "local_hf", "fingerprint": weights}


def read_spec(text: str) -> JudgeSpec:
    """Read one `--judge`: `MODEL@URL`, `MODEL@URL#KEY_VARIABLE`, or a Hugging Face model folder.

    Raises:
        UserError: it is neither.
    """
    from meap_megatron.evaluation.hallucination.judge_http import check_url

    if "@http" in text:
        name, _, rest = text.partition("@http")
        url, _, variable = f"http{rest}".partition("#")
        if not name:
            raise UserError(
                f"--judge {text}: the model's name is missing",
                fix="give MODEL@URL, as in gpt-4o@https://api.openai.com/v1",
            )
        return JudgeSpec(name=name, url=check_url(url), key_variable=variable or None)
    if Path(text).is_dir():
        return JudgeSpec(name=Path(text).resolve().name, folder=Path(text))
    raise UserError(
        f"--judge {text}: neither MODEL@URL (gpt-4o@https://api.openai.com/v1) nor a Hugging Face model folder"
    )


def read_specs(texts: Sequence[str] | None) -> list[JudgeSpec]:
    """Read all `--judge`; `none` asks for summaries without a judge.

    Raises:
        UserError: none was given, one cannot be used, or two have one name.
    """
    if not texts:
        raise UserError(
            "hallucination needs a judge",
            fix="give --judge MODEL@URL (an OpenAI-compatible endpoint; its key comes from MEAP_JUDGE_API_KEY or "
            "OPENAI_API_KEY), --judge DIR (a local model), or --judge none for ROUGE only",
        )
    specs = [read_spec(text) for text in texts if text != NO_JUDGE]
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two judges are called {twice}", fix="run them with separate --out")
    return specs


def judgement_key(judge: dict[str, Any], text: str, attempt: int) -> str:
    """Return the hash of one question to one judge."""
    return request_key("judge", [judge, text, attempt])


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge made of one summary."""

    score: int | None
    """None: its answers had no score."""
    answer: str


def judge_all(
    texts: Sequence[str], *, judge: dict[str, Any], open_judge: Callable[[], Judge], ledger: Ledger
) -> tuple[list[Judgement], int]:
    """Ask about all summaries; what the ledger knows is not asked again.

    Args:
        texts: the questions.
        judge: identity of the judge.
        open_judge: makes it; called only if there is something to ask.
        ledger: keeps the answers.

    Returns:
        One judgement for every text, and how many questions were asked.

    Raises:
        RunError: the judge cannot be reached; the answers so far are kept.
    """
    asked, chosen = 0, None
    for attempt in range(ATTEMPTS):
        missing = {
            key: text
            for text in dict.fromkeys(texts)
            if _read(ledger, judge, text)[1] == attempt
            and (key := judgement_key(judge, text, attempt)) not in ledger.answers
        }
        if missing:
            chosen = chosen or open_judge()
            asked += len(missing)
            _ask(missing, chosen, ledger)
    return [_read(ledger, judge, text)[0] for text in texts], asked


def _read(ledger: Ledger, judge: dict[str, Any], text: str) -> tuple[Judgement, int]:
    """Return the judgement that the ledger knows, and the attempt that would come next (`ATTEMPTS`: none)."""
    answer = ""
    for attempt in range(ATTEMPTS):
        key = judgement_key(judge, text, attempt)
        if key not in ledger.answers:
            return Judgement(score=None, answer=answer), attempt
        answer = ledger.answers[key]
        if (score := parse(answer)) is not None:
            return Judgement(score=score, answer=answer), ATTEMPTS
    return Judgement(score=None, answer=answer), ATTEMPTS


def _ask(missing: dict[str, str], judge: Judge, ledger: Ledger) -> None:
    """Ask several questions at a time; each answer is on disk before the next is waited for."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=judge.concurrency) as pool:
        running: dict[Future[str], str] = {pool.submit(judge.ask, text, stop): key for key, text in missing.items()}
        try:
            for done in as_completed(running):
                ledger.record(running[done], done.result())
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            # Answers that were under way are paid for: they are kept too.
            for done, key in running.items():
                try:
                    ledger.record(key, done.result())
                except (Exception, CancelledError):
                    continue
            raise
