"""Suite `hallucination`: summaries by the model, compared with human ones by a judge (Table 4)."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.hallucination import summaries
from meap_megatron.evaluation.hallucination.judge import Judge, JudgeSpec, judge_all, question, read_specs
from meap_megatron.evaluation.hallucination.judge_http import HttpJudge, find_key
from meap_megatron.evaluation.hallucination.judge_local import LocalJudge
from meap_megatron.evaluation.identity import hash_file
from meap_megatron.evaluation.prompt_length import Measure
from meap_megatron.evaluation.response_cache import Ledger, RecordingLM, responses_file
from meap_megatron.evaluation.session import Session
from meap_megatron.evaluation.statistics import summary
from meap_megatron.evaluation.suites import SUITES, Outcome, Request, Suite

VERSION = 1


def settings(request: Request, suite: Suite) -> dict[str, Any]:
    """Return what a run depends on beside the model.

    Raises:
        UserError: there is no judge or no data.
    """
    specs = judges(request)
    found = summaries.find_articles(request.data)
    return {
        "datasets": {name: hash_file(path) for name, path in found.items()},
        "judges": [spec.identity() for spec in specs],
        "template": request.template,
        "limit": request.limit or summaries.SAMPLES,
        "seed": request.seed,
        "batch_size": request.batch_size,
    }


def judges(request: Request) -> list[JudgeSpec]:
    """Return the judges of a request; a missing key is found before anything is generated.

    Raises:
        UserError: one cannot be used.
    """
    specs = read_specs(request.judge)
    for spec in specs:
        if spec.url is not None:
            find_key(spec.url, spec.key_variable)
    return specs


def open_judge(spec: JudgeSpec, request: Request) -> Judge:
    """Make a judge ready to be asked."""
    if spec.folder is not None:
        return LocalJudge(spec.folder, device=request.device)
    assert spec.url is not None
    concurrency = request.judge_concurrency or 4
    return HttpJudge(spec.url, model=spec.name, key_variable=spec.key_variable, concurrency=concurrency)


def run(request: Request, session: Session, name: str, chosen: Mapping[str, Any]) -> Outcome:
    """Run the suite.

    Returns:
        One record for every article, and what goes into the results document.

    Raises:
        UserError: data, template or judge cannot be used.
        RunError: a judge cannot be reached.
    """
    specs = judges(request)
    articles = [summaries.read_articles(kind, path) for kind, path in summaries.find_articles(request.data).items()]
    missing = [kind for kind in summaries.DATASETS if kind not in chosen["datasets"]]
    if missing:
        print(f"{name}: not run, no file in the data folder: {', '.join(missing)}", file=sys.stderr)
    applied = session.asks_in_chat(SUITES[name]) and chosen["template"] is None
    template = summaries.choose_template(chosen["template"], session.lm.tokenizer.get_vocab(), chat=applied)
    session.lm.add_bos_token = False if applied else session.policy.override
    length = min(session.limit or summaries.CONTEXT, summaries.CONTEXT)
    measure = Measure(
        name="", tokenizer=session.lm.tokenizer, limit=length, override=session.policy.override, chat=applied
    )
    records = [
        record
        for data in articles
        for record in prompts(data, chosen, template=template, measure=measure, length=length)
    ]
    if all(record["prompt"] is None for record in records):
        raise UserError(
            f"no article fits: the model takes {length} tokens, {summaries.NEW_TOKENS} of them are for the summary"
        )
    with closing(Ledger(responses_file(request, name), identity=session.identity())) as ledger:
        lm = RecordingLM(session.lm, ledger)
        fitting = [record for record in records if record["prompt"] is not None]
        found = summaries.generate(lm, [record["prompt"] for record in fitting], template=template)
        for record, text in zip(fitting, found, strict=True):
            record["answer_given"] = text
            record["metrics"] = summaries.rouge(text, record["reference"])
        requests: dict[str, Any] = ledger.requests()
        requests |= {"asked_of_judges": {spec.name: judge_one(spec, request, fitting, ledger) for spec in specs}}
    for record in records:
        record["prompt_sha256"] = hashlib.sha256((record.pop("prompt") or "").encode()).hexdigest()
    return records, {
        "tasks": [{"task": f"hallucination_{data.name}", "version": VERSION, "metrics": {}} for data in articles],
        "requests": requests,
        "headline": headline(records, specs),
        "data": {
            data.name: {"records": len(data.documents), "empty": data.empty, "sha256": data.sha256}
            for data in articles
        },
        "not_run": missing,
        "prompt": {"template": template, "length": length, "new_tokens": summaries.NEW_TOKENS},
        "judged": "likeness to the human summary; the judge does not see the article",
    }


def prompts(
    data: summaries.Articles, chosen: Mapping[str, Any], *, template: str, measure: Measure, length: int
) -> list[dict[str, Any]]:
    """Return the records of one data set, with prompts and without answers."""
    found = []
    for number in data.draw(chosen["limit"], seed=chosen["seed"]):
        prompt = summaries.fit(data.documents[number], template=template, measure=measure, length=length)
        found.append(
            {
                "task": f"hallucination_{data.name}",
                "doc_id": number,
                "dataset": data.name,
                "cut": prompt.cut,
                "prompt_tokens": prompt.tokens,
                "reference": data.summaries[number],
                "prompt": None if prompt.text is None else measure.wrap(prompt.text),
                "metrics": {"unfit": 1.0},
            }
        )
    return found


def judge_one(spec: JudgeSpec, request: Request, records: Sequence[dict[str, Any]], ledger: Ledger) -> int:
    """Add a judge's scores to the records, and return how many questions were asked."""
    texts = [question(record["answer_given"], record["reference"]) for record in records]
    found, asked = judge_all(texts, judge=spec.identity(), open_judge=lambda: open_judge(spec, request), ledger=ledger)
    for record, judgement in zip(records, found, strict=True):
        record["metrics"][f"accuracy[{spec.name}]"] = float(judgement.score or 0)
        record["metrics"][f"unparsed[{spec.name}]"] = float(judgement.score is None)
        record.setdefault("judgements", {})[spec.name] = judgement.answer
    return asked


def headline(records: Sequence[dict[str, Any]], specs: Sequence[JudgeSpec]) -> dict[str, Any]:
    """Return judge -> data set -> accuracy with standard error, count and number of unparsed answers."""
    found: dict[str, Any] = {}
    for spec in specs:
        found[spec.name] = {}
        for kind in dict.fromkeys(record["dataset"] for record in records):
            own = [r["metrics"] for r in records if r["dataset"] == kind and "unfit" not in r["metrics"]]
            if own:
                scores = summary([metrics[f"accuracy[{spec.name}]"] for metrics in own])
                unparsed = sum(metrics[f"unparsed[{spec.name}]"] for metrics in own)
                found[spec.name][kind] = {**scores, "unparsed": int(unparsed)}
    return {"metric": "accuracy", "judges": found}
