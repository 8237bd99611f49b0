"""Better, worse, or no difference shown: every model against the baseline, on the questions that both answered."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.statistics import compare, interval
from meap_megatron.evaluation.suites import SUITES
from meap_megatron.report.collect import ReportedRun

ABOUT = {
    "commonsense": ("Commonsense", "multiple-choice questions of seven tests; right answers. Guessing gives 36 %."),
    "needle": (
        "Needle in a haystack",
        "a sentence hidden in a long text is asked for; its words found in the answer.",
    ),
    "mdqa": ("Multi-document QA", "one of many documents holds the answer; answers that contain it."),
    "kv": ("Key-value retrieval", "one of many random keys is asked for; values returned exactly."),
    "mrs": ("Multi-needle reasoning", "linked facts hidden in a long text are to be joined; expected words found."),
    "hallucination": ("Summaries", "a summary of an article, compared with one by a person."),
}
"""Suite -> title, and what is asked and counted, for readers who do not know it."""
REPEATED = {"mdqa", "kv"}
"""Suites that ask the same questions at several places: a question counts once, with the mean of its places."""
CHANCE = 0.05

Scores = dict[tuple[str, str, str], float]
"""(task, number, hash of the prompt) -> score."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One model in one suite, beside the baseline where there is one."""

    label: str
    score: float
    n: int
    """Questions."""
    low: float | None = None
    high: float | None = None
    """95 % interval of the difference, without a baseline of the score."""
    p: float | None = None
    baseline: float | None = None
    paired: bool = True
    lower: bool = False
    """Whether less is better."""

    @property
    def difference(self) -> float:
        """Return the score less the baseline's."""
        return self.score - (self.baseline or 0.0)

    @property
    def style(self) -> str:
        """Return better, worse or "": both the interval and the test must exclude chance."""
        if self.low is None or self.high is None or self.p is None or self.p >= CHANCE or self.low <= 0 <= self.high:
            return ""
        return "better" if (self.difference < 0) == self.lower else "worse"


@dataclass(frozen=True, kw_only=True)
class SuiteVerdicts:
    """All models in one suite."""

    title: str
    about: str
    verdicts: Sequence[Verdict]
    percent: bool = True

    @property
    def span(self) -> float:
        """Return the largest end of an interval of a difference."""
        ends = [abs(end) for one in self.verdicts for end in (one.difference, one.low, one.high) if end is not None]
        return max(ends, default=0.0) or 1.0

    def show(self, value: float, sign: str = "") -> str:
        """Return a score or a difference as text."""
        return f"{100 * value:{sign}.1f}" if self.percent else f"{value:{sign}.4f}"


def all_verdicts(runs: Sequence[ReportedRun], baseline: ReportedRun | None) -> list[SuiteVerdicts]:
    """Return the verdicts of every suite with one score for each question, in the order of the suites."""
    found = []
    for suite in SUITES:
        if SUITES[suite].pair or not any(suite in run.documents for run in runs):
            continue
        title, about = ABOUT.get(suite, (suite, f"{SUITES[suite].summary}."))
        head = next(run.documents[suite]["headline"] for run in runs if suite in run.documents)
        read = {run.label: read_scores(run, suite) for run in runs if suite in run.documents}
        for metric in dict.fromkeys(metric for scores in read.values() for metric in scores):
            scores = {label: own[metric] for label, own in read.items() if own.get(metric)}
            kind = metric.replace("accuracy[", "judge ").rstrip("]").replace("_", " ")
            name = title if metric == SUITES[suite].headline else f"{title}, {kind}"
            judged = _judge(
                scores,
                baseline.label if baseline else None,
                repeated=suite in REPEATED,
                lower=head.get("lower_is_better", False),
            )
            percent = head.get("percent", True)
            found.append(SuiteVerdicts(title=name, about=about, verdicts=list(judged), percent=percent))
    return found


def _judge(scores: Mapping[str, Scores], baseline: str | None, *, repeated: bool, lower: bool) -> Iterator[Verdict]:
    for label, own in scores.items():
        if baseline is None or baseline not in scores or len(scores) < 2:
            values = questions(own, own, repeated=repeated)
            low, high = interval(values) if len(values) > 1 else (None, None)
            yield Verdict(label=label, score=sum(values) / len(values), n=len(values), low=low, high=high)
        elif label != baseline:
            other = scores[baseline]
            shared = own.keys() & other.keys()
            before, after = (questions(one, shared or one, repeated=repeated) for one in (other, own))
            tested = compare(before, after, paired=bool(shared))
            yield Verdict(
                label=label,
                score=sum(after) / len(after),
                baseline=sum(before) / len(before),
                n=len(after),
                low=tested["low"],
                high=tested["high"],
                p=tested["p"],
                paired=bool(shared),
                lower=lower,
            )


def questions(scores: Scores, keys: Any, *, repeated: bool) -> list[float]:
    """Return a score for each question, weighted so that their mean is the mean over the tasks, as in the tables.

    Args:
        scores: of one model.
        keys: of those that count.
        repeated: whether samples of one number are one question.
    """
    sizes = Counter(task for task, _, _ in keys)
    units: defaultdict[Any, float] = defaultdict(float)
    for key in sorted(keys):
        units[key[1] if repeated else key] += scores[key] / sizes[key[0]]
    return [value * len(units) / len(sizes) for value in units.values()]


def read_scores(run: ReportedRun, suite: str) -> dict[str, Scores]:
    """Return metric -> scores of the samples beside a results document: the suite's metric, or of summaries the judges'."""
    path = run.folders[suite] / f"{suite}.samples.jsonl"
    found: defaultdict[str, Scores] = defaultdict(dict)
    for record in records(path):
        metrics = {name: value for name, value in record["metrics"].items() if isinstance(value, (int, float))}
        own = (SUITES[suite].headline, f"window_{SUITES[suite].headline}")
        chosen = [name for name in metrics if name in own or name.startswith("accuracy[")]
        if not chosen and suite == "hallucination":
            chosen = ["rougeL_f1"]
        for name in chosen:
            if name in metrics:
                key = (record["task"], str(record["doc_id"]), str(record["prompt_sha256"]))
                found[name][key] = float(metrics[name])
    return dict(found)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of a file; none of a file that is absent: results may be copied without it.

    Raises:
        UserError: a line is not a sample.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                _ = record["task"], record["doc_id"], record["prompt_sha256"], record["metrics"].items()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path}:{number}: not a sample of `meap evaluate` ({error!r})", fix="run it again"
                ) from None
            yield record
