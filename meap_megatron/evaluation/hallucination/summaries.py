"""Articles to summarise and the prompts that ask for it: read, drawn with a seed, cut to the model's length.

One JSON-lines file for each data set, `xsum.jsonl`, `multi_news.jsonl` and `wikisum.jsonl` (or `.jsonl.gz`), of records
`{"document": ..., "summary": ...}`. Which articles are drawn depends on file and seed only, so that two models get the
same ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap_megatron.corpus.sft.templates import TEMPLATES
from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import ENVIRONMENT, data_folder, find, read_records
from meap_megatron.evaluation.identity import hash_file
from meap_megatron.evaluation.prompt_length import Measure

DATASETS = {"xsum": "XSum", "multi_news": "MultiNews", "wikisum": "WikiSum"}
"""Name of the file -> heading in Table 4."""
SAMPLES = 100
NEW_TOKENS = 256
CONTEXT = 4096  # tokens, prompt and summary together: the length of SFT, also for models that take more
QUESTION = "Summarize the following article: "
NO_TEMPLATE = "none"
CHAT = "tokenizer"
"""The tokenizer's own chat template."""


@dataclass(frozen=True, kw_only=True)
class Articles:
    """One data set."""

    name: str
    sha256: str
    documents: list[str]
    summaries: list[str]
    empty: int
    """Records without article or summary; left out before drawing."""

    def draw(self, count: int, *, seed: int) -> list[int]:
        """Return numbers of articles; a smaller count gives the first of a larger one."""
        numbers = list(range(len(self.documents)))
        random.Random(f"{seed} {self.name}").shuffle(numbers)
        return numbers[:count]


def find_articles(given: str | None) -> dict[str, Path]:
    """Return data set -> file of those that are in the data folder.

    Raises:
        UserError: no folder is named, or none of them is there.
    """
    names = ", ".join(f"{name}.jsonl" for name in DATASETS)
    wanted = f'{names} (or .jsonl.gz) of records {{"document": ..., "summary": ...}}'
    folder = data_folder(given)
    if folder is None:
        raise UserError(
            "hallucination reads articles from files", fix=f"give --data (or ${ENVIRONMENT}), a folder with {wanted}"
        )
    found = {name: path for name in DATASETS if (path := find(folder, f"{name}.jsonl.gz")) is not None}
    if not found:
        raise UserError(f"{folder} holds no articles", fix=f"put there one or more of {wanted}")
    return found


def read_articles(name: str, path: Path) -> Articles:
    """Read one data set.

    Raises:
        UserError: the file cannot be read, or a record is of another form; names file and line.
    """
    documents, summaries, empty = [], [], 0
    for number, record in enumerate(read_records(path, ()), start=1):
        document, summary = record.get("document"), record.get("summary")
        if not isinstance(document, str) or not isinstance(summary, str):
            raise UserError(f"{path}:{number}: a record needs the texts document and summary, found {sorted(record)}")
        if not document.strip() or not summary.strip():
            empty += 1
            continue
        documents.append(document)
        summaries.append(summary)
    if not documents:
        raise UserError(f"{path}: all {empty} records are empty", fix="copy the file again")
    return Articles(name=name, sha256=hash_file(path), documents=documents, summaries=summaries, empty=empty)


def choose_template(requested: str | None, vocabulary: dict[str, int], *, chat: bool = False) -> str:
    """Return the name of the template: the requested one, that of the model, llama3 for a tokenizer made for it, vicuna.

    Raises:
        UserError: there is no such template.
    """
    if requested is None and chat:
        return CHAT
    if requested is None:
        return "llama3" if all(token in vocabulary for token in TEMPLATES["llama3"].markers) else "vicuna"
    if requested not in (*TEMPLATES, NO_TEMPLATE):
        raise UserError(
            f"there is no template '{requested}'; --template is one of {', '.join(TEMPLATES)}, {NO_TEMPLATE}"
        )
    return requested


def ask_for_summary(document: str, *, template: str) -> str:
    """Return the prompt for an article inside an SFT template."""
    query = QUESTION + document
    if template == CHAT:
        return query  # the measure puts it into the template
    if template == NO_TEMPLATE:
        return f"{query}\n\nSummary:"
    chosen = TEMPLATES[template]
    # Texts go in by replacement: an article may hold braces.
    text = chosen.opening if chosen.system else chosen.prompt
    before, after = text.split("{query}")
    return before.replace("{system}", chosen.system) + query + after


def stops(template: str) -> list[str]:
    """Return the texts at which a summary ends, beside the tokenizer's EOS."""
    if template in (NO_TEMPLATE, CHAT):
        return []
    chosen = TEMPLATES[template]
    return [text for text in dict.fromkeys((chosen.end or "", chosen.separator.strip())) if text]


@dataclass(frozen=True, kw_only=True)
class SummaryPrompt:
    """What the model reads for one article."""

    text: str | None
    """None: not even an empty article fits."""
    tokens: int
    """Of the prompt."""
    cut: bool
    """Whether the end of the article was left out."""


def fit(document: str, *, template: str, measure: Measure, length: int) -> SummaryPrompt:
    """Return the prompt with as much of the article's beginning as leaves room for the summary.

    `length` counts the tokens of prompt and summary together.
    """
    room = length - NEW_TOKENS
    whole = ask_for_summary(document, template=template)
    if (tokens := measure.count(whole)) <= room:
        return SummaryPrompt(text=whole, tokens=tokens, cut=False)
    frame = measure.count(ask_for_summary("", template=template))
    ids = measure.encode(document)
    keep = min(len(ids), room - frame)
    while keep > 0:
        text = ask_for_summary(measure.decode(ids[:keep]), template=template)
        tokens = measure.count(text)
        if tokens <= room:
            return SummaryPrompt(text=text, tokens=tokens, cut=True)
        # Text that was cut may fall into more pieces than it was cut from.
        keep -= max(1, tokens - room)
    return SummaryPrompt(text=None, tokens=frame, cut=True)


def rouge(summary: str, reference: str) -> dict[str, float]:
    """Return ROUGE-1 and ROUGE-L F1 with stemming: numbers beside a judge's, no substitute for it."""
    from rouge_score.rouge_scorer import RougeScorer

    found = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(reference, summary)
    return {f"{kind}_f1": float(score.fmeasure) for kind, score in found.items()}


def generate(lm: Any, prompts: Sequence[str], *, template: str) -> list[str]:
    """Return the model's greedy summaries, without white space around them."""
    from lm_eval.api.instance import Instance

    options = {"until": stops(template), "max_gen_toks": NEW_TOKENS, "do_sample": False, "temperature": 0.0}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(prompt, dict(options)), idx=number)
        for number, prompt in enumerate(prompts)
    ]
    return [answer.strip() for answer in lm.generate_until(requests)]
