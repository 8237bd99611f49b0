"""Multi-document question answering (Liu et al.; paper, Tables 3, 7 and 8) and nq-open-oracle (Table 9).

The gold document is at one of several places among distractors. Where the published files are absent, the
distractors are made from nq-open-oracle; such a set is another test than the published one, and says so everywhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import ENVIRONMENT, data_folder, find, read_records
from meap_megatron.evaluation.prompt_length import load_measure
from meap_megatron.evaluation.retrieval import documents, metrics
from meap_megatron.evaluation.retrieval.distractors import nearest

ORACLE = "nq-open-oracle.jsonl.gz"
NEW_TOKENS = 100
INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant)."
)
PUBLISHED, SYNTHETIC = "published", "synthetic distractors"
FIELDS = ("question", "answers", "ctxs")


def build(*, num_documents: int, gold_index: int, **metadata: Any) -> dict[str, Any]:
    """Make the samples of one task; the harness calls this with the task's and the run's settings.

    Args:
        num_documents: documents of a prompt; 1 is nq-open-oracle.
        gold_index: place of the gold document, from 0.
        metadata: `data` (folder), `samples` (questions to use, from the first on), `max_prompt_length` (tokens; longer
            prompts are counted and not scored, as the official script does at 4096), and what names the model.

    Raises:
        UserError: data, tokenizer or a setting cannot be used.
    """
    records, source = load(
        data_folder(metadata.get("data")),
        num_documents=num_documents,
        gold_index=gold_index,
        samples=documents.count(metadata.get("samples"), name="samples"),
    )
    longest = documents.count(metadata.get("max_prompt_length"), name="max_prompt_length")
    measure = load_measure(metadata)
    built = []
    for record in records:
        prompt = render(record["question"], record["ctxs"])
        fits = measure.fits(prompt, new_tokens=NEW_TOKENS)
        fits = fits and (longest is None or measure.count(prompt) <= longest)
        built.append(
            {
                "prompt": measure.wrap(prompt) if fits else documents.PLACEHOLDER,
                "answers": list(record["answers"]),
                "num_documents": num_documents,
                "gold_index": gold_index,
                "source": source,
                "answer_in_document": holds_answer(record["ctxs"][gold_index]["text"], record["answers"]),
                "fits": fits,
            }
        )
    return documents.dataset(built, task=f"MDQA with {num_documents} documents")


def load(
    folder: Path | None, *, num_documents: int, gold_index: int, samples: int | None
) -> tuple[Sequence[dict[str, Any]], str]:
    """Return the first records of one set and where they come from.

    Raises:
        UserError: neither the published file nor nq-open-oracle is there.
    """
    name = f"nq-open-{num_documents}_total_documents_gold_at_{gold_index}.jsonl.gz"
    wanted = ORACLE if num_documents == 1 else name
    if folder is None:
        raise UserError(
            f"multi-document QA reads {wanted}",
            fix=f'give the folder that holds it (--data DIR, or ${ENVIRONMENT}, or --metadata \'{{"data": "DIR"}}\')',
        )
    if path := find(folder, wanted):
        return read_records(path, FIELDS)[:samples], PUBLISHED
    oracle = find(folder, ORACLE)
    if oracle is None:
        raise UserError(
            f"{folder} holds neither {wanted} nor {ORACLE} to make synthetic distractors from",
            fix="get both from qa_data of github.com/nelson-liu/lost-in-the-middle",
        )
    return list(synthesise(oracle, num_documents=num_documents, gold_index=gold_index, samples=samples)), SYNTHETIC


def synthesise(oracle: Path, *, num_documents: int, gold_index: int, samples: int | None) -> Iterator[dict[str, Any]]:
    """Yield questions with synthetic distractors, the gold passage at `gold_index`.

    Raises:
        UserError: there are not enough passages.
    """
    chosen = distractors(oracle, num_documents - 1, samples)
    for record, others in zip(read_records(oracle, FIELDS), chosen, strict=False):
        yield {**record, "ctxs": [*others[:gold_index], record["ctxs"][0], *others[gold_index:]]}


@lru_cache(maxsize=4)
def distractors(oracle: Path, wanted: int, samples: int | None) -> tuple[list[dict[str, Any]], ...]:
    """Return, for each question, gold passages of other questions, the nearest to the question first.

    A distractor has another title than the gold passage and holds none of the answers.

    Raises:
        UserError: there are not enough passages.
    """
    records = read_records(oracle, FIELDS)
    passages = [record["ctxs"][0] for record in records]
    bare = [metrics.normalise_answer(f"{passage['title']} {passage['text']}") for passage in passages]
    found = []
    for number, order in enumerate(nearest([record["question"] for record in records[:samples]], bare)):
        answers = [answer for answer in map(metrics.normalise_answer, records[number]["answers"]) if answer]
        titles: set[str] = {passages[number]["title"]}
        chosen: list[dict[str, Any]] = []
        for other in order:
            if len(chosen) == wanted:
                break
            if passages[other]["title"] not in titles and not any(holds(bare[other], answer) for answer in answers):
                titles.add(passages[other]["title"])
                chosen.append({**passages[other], "hasanswer": False, "isgold": False})
        if len(chosen) < wanted:
            raise UserError(
                f"{oracle}: question {number + 1} has only {len(chosen)} usable distractors, {wanted} are needed",
                fix="use the whole file",
            )
        found.append(chosen)
    return tuple(found)


def holds(text: str, answer: str) -> bool:
    """Return whether a normalised text holds a normalised answer.

    An answer of one or two characters must be a word of its own: the letter s would be part of every passage.
    """
    return f" {answer} " in f" {text} " if len(answer) < 3 else answer in text


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Return whether one of the answers occurs in a document, both normalised."""
    bare = metrics.normalise_answer(text)
    return any(metrics.normalise_answer(answer) in bare for answer in answers)


def render(question: str, passages: Sequence[Mapping[str, Any]]) -> str:
    """Return the published prompt."""
    shown = [
        f"Document [{number}](Title: {passage['title']}) {passage['text']}"
        for number, passage in enumerate(passages, start=1)
    ]
    return "\n".join([INSTRUCTION, "", *shown, "", f"Question: {question}", "Answer:"])


def process_results(document: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    """Score one answer.

    `empty_answer` is what the metric gives to a model that says nothing. `answer_in_document` is of the data, and is
    counted for samples that do not fit the model too: whether the gold document holds an answer at all.
    """
    checked = {"answer_in_document": float(document["answer_in_document"])}
    return checked | _score(document, results)


@documents.scored
def _score(document: Mapping[str, Any], answer: str) -> dict[str, float]:
    said = {"best_subspan_em": answer, "empty_answer": ""}
    return {name: metrics.best_subspan_em(text, document["answers"]) for name, text in said.items()}
