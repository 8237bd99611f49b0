"""Multi-needle reasoning, M-RS (OpenCompass NeedleBench v1; paper, Figure 4): several facts, one chain of reasoning.

The rules are those of version 1, quirks included; version 2 is another test. Two things differ: lengths are counted
with the model's own tokenizer (there: GPT-4's), and the prompt with its answer never exceeds the length.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import data_folder, find, read_records
from meap_megatron.evaluation.prompt_length import Measure, load_measure
from meap_megatron.evaluation.retrieval import documents, kinship, metrics
from meap_megatron.evaluation.retrieval.haystack import essay_tokens, find_essays

NEEDLE_COUNTS = (2, 3, 4, 5)
REPEATS = 10
SPACING = 10  # percent of the haystack between two needles
NEW_TOKENS = 64
TWENTY_DEPTHS = tuple(int(100 * step / 19) for step in range(20))  # percent
ELEVEN_DEPTHS = (0, 10, 21, 31, 42, 52, 63, 73, 84, 94, 100)
LENGTHS = (*range(1000, 8001, 1000), 9000, 13000, 17000, 21000, 25000, 29000, 31000, 32000)  # tokens
QUESTIONS, ESSAYS = "multi_needle_reasoning_en.json", "PaulGrahamEssays.jsonl"
FIELDS = ("question", "answer", "derivations", "derivation_count")
PUBLISHED, GENERATED = "published", "generated kinship chains"
PROMPT = (
    "You are an intelligent AI assistant skilled in answering user questions.\n"
    "Please keep your answers concise and clear. Do not talk about irrelevant topics or repeat your answers.\n"
    "The document given to you by the user is {context}\n\n"
    "Now, the question is: {question}"
    "Before answering, please consider what in the document is most relevant to this question."
)


def group_settings(length: int) -> tuple[int, tuple[int, ...]]:
    """Return the tokens kept free and the depths of the published group that a length belongs to (4k, 8k, 32k)."""
    if length <= 4000:
        return (600 if length >= 1000 else 0), TWENTY_DEPTHS
    return (1000, TWENTY_DEPTHS) if length <= 8000 else (3000, ELEVEN_DEPTHS)


def build(*, num_needles: int, **metadata: Any) -> dict[str, Any]:
    """Make the samples of one task; the harness calls this with the task's and the run's settings.

    Args:
        num_needles: facts to combine.
        metadata: `lengths`, `depths` (instead of the published ones), `samples` (repeats of a cell), `seed` of
            generated questions, `data` and `essays` (folders, optional), and what names the model.

    Raises:
        UserError: data, tokenizer or a setting cannot be used.
    """
    lengths = documents.numbers(metadata.get("lengths", LENGTHS), name="lengths")
    repeats = documents.count(metadata.get("samples"), name="samples") or REPEATS
    (seed,) = documents.numbers(metadata.get("seed", 0), name="seed")
    folder = data_folder(metadata.get("data"))
    choose, source = questions(folder, num_needles=num_needles, seed=seed)
    published = find(folder, ESSAYS) if folder is not None and not metadata.get("essays") else None
    essays = published or find_essays(metadata.get("essays"))
    measure = load_measure(metadata)
    built = []
    for length in lengths:
        depths = documents.numbers(metadata.get("depths", group_settings(length)[1]), name="depths", kind=float)
        fits = measure.limit is None or length <= measure.limit
        order: list[int] = []
        for repeat in range(repeats):
            record = choose(repeat)
            tokens = shuffled(measure, essays, order, repeat=repeat, needed=length) if fits else []
            for depth in depths:
                prompt = fill(measure, tokens, record, length=length, depth=depth) if fits else documents.PLACEHOLDER
                built.append(
                    {
                        "prompt": measure.wrap(prompt) if fits else prompt,
                        "answer": record["answer"],
                        "num_needles": num_needles,
                        "length": length,
                        "depth": depth,
                        "repeat": repeat,
                        "source": source,
                        "fits": fits,
                    }
                )
    return documents.dataset(built, task=f"M-RS with {num_needles} needles")


def questions(folder: Path | None, *, num_needles: int, seed: int) -> tuple[Callable[[int], dict[str, Any]], str]:
    """Return a function from repeat to question, and where the questions come from.

    Raises:
        UserError: the published file has no question with this number of needles.
    """
    path = find(folder, QUESTIONS) if folder is not None else None
    if path is None:
        return lambda repeat: kinship.generate(num_needles, seed=seed, index=repeat), GENERATED
    records = [r for r in read_records(path, FIELDS) if r["derivation_count"] == num_needles]
    if not records:
        raise UserError(
            f"{path} has no record with derivation_count {num_needles}", fix="get the published file again"
        )
    return lambda repeat: random.Random(repeat).choice(records), PUBLISHED


def shuffled(measure: Measure, essays: Path, order: list[int], *, repeat: int, needed: int) -> list[int]:
    """Return the first `needed` tokens of the essays in the order of a repeat; fewer where the essays hold fewer.

    `order` is that of the repeat before; each repeat shuffles it further in place, as published.
    """
    tokens = essay_tokens(essays, measure)
    order[:] = order or range(len(tokens))
    random.Random(repeat).shuffle(order)
    taken: list[int] = []
    for essay in order:
        taken += tokens[essay]
        if len(taken) >= needed:
            break
    return taken[:needed]


def fill(measure: Measure, tokens: Sequence[int], record: Mapping[str, Any], *, length: int, depth: float) -> str:
    """Build one prompt of at most `length - NEW_TOKENS` tokens.

    Raises:
        UserError: the length leaves no room for the needles.
    """
    needles = [f"\n{needle}\n" for needle in record["derivations"]]
    sizes = [len(measure.encode(needle)) for needle in needles]
    render = partial(PROMPT.format, question=record["question"])
    frame = measure.count(render(context="")) + NEW_TOKENS
    reserve = max(group_settings(length)[0], frame) + sum(sizes)

    def around(budget: int) -> str:
        haystack = list(tokens[:budget])
        return render(context=insert(measure, haystack, needles, places(len(haystack), sizes, depth=depth)))

    if (prompt := measure.longest(around, length=length, reserve=reserve, new_tokens=NEW_TOKENS)) is not None:
        return prompt
    raise UserError(
        f"length {length} is too short for {len(needles)} needles: this tokenizer needs {reserve} tokens for needles, "
        f"question and answer",
        fix=f"use lengths from {1000 * -(-reserve // 1000)} on",
    )


def places(total: int, sizes: Sequence[int], *, depth: float) -> list[int]:
    """Return the number of haystack tokens before each needle.

    The first needle is at its depth, each other one 10 % of the haystack behind the one before. Version 1 then
    moves a needle once more by the sizes of the needles before it, so that the gaps are somewhat larger.

    Given 100 tokens, three needles of 5, depth 20; then 20, 35, 50.
    """
    points: list[int] = []
    for number in range(len(sizes)):
        if number == 0:
            point = int(total * (depth / 100))
        else:
            point = int(points[-1] + sizes[number - 1] + total * (SPACING / 100))
        points.append(min(point, total + sum(sizes[:number])))
    # A point counts the needles before it, the quirk adds them once more, and the place in the haystack takes them off.
    return [min(point, total) for point in points]


def insert(measure: Measure, haystack: list[int], needles: Sequence[str], before: Sequence[int]) -> str:
    """Return the haystack as text with needle i behind its first `before[i]` tokens."""
    parts, start = [], 0
    for needle, place in zip(needles, before, strict=True):
        parts += [measure.decode(haystack[start:place]), needle]
        start = place
    return "".join([*parts, measure.decode(haystack[start:])])


@documents.scored
def process_results(document: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Score one answer by the share of the expected words in it."""
    fraction = metrics.keyword_fraction(answer, document["answer"])
    return {"keyword_fraction": fraction, "published_mean": (document["length"], fraction)}


def mean_over_lengths(values: Sequence[tuple[int, float]]) -> float:
    """Return the published average: the mean over lengths of the mean of each length's samples."""
    by_length: dict[int, list[float]] = defaultdict(list)
    for length, fraction in values:
        by_length[length].append(fraction)
    return sum(sum(found) / len(found) for found in by_length.values()) / len(by_length)
