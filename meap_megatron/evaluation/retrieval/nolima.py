"""NoLiMa (Modarressi et al., 2025): a needle in a book that shares no words with the question about it.

Needles and books are read from a folder: their licence allows research that is not commercial, and no bundling here.
"""

import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import data_folder, read_json, subfolder
from meap_megatron.evaluation.prompt_length import Measure, load_measure
from meap_megatron.evaluation.retrieval import documents

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)  # tokens
DEPTHS = tuple(range(0, 101, 4))  # percent
NEW_TOKENS = 64
NEEDLES, BOOKS = "needle_set.json", "rand_shuffle"
FIELDS = ("id", "needle", "questions", "tests", "task_template", "character_set")
WHERE = "needlesets/ and haystack/ of huggingface.co/datasets/amodaresi/NoLiMa"
PLAIN_END = "\nAnswer:"
"""Ends a prompt outside a conversation: a model of plain text answers where an answer is announced."""


def build(*, hops: str, **metadata: Any) -> dict[str, Any]:
    """Make the samples of one task; the harness calls this with the task's and the run's settings.

    Args:
        hops: `onehop` or `twohop`: which question about the needle is asked.
        metadata: `data` (folder that holds a folder `nolima`), `lengths`, `depths`, `samples` (needles of every length and
            depth; default: all, in every book), `seed`, and what names the model.

    Raises:
        UserError: data, tokenizer or a setting cannot be used.
    """
    lengths = documents.numbers(metadata.get("lengths", LENGTHS), name="lengths")
    depths = documents.numbers(metadata.get("depths", DEPTHS), name="depths", kind=float)
    samples = documents.count(metadata.get("samples"), name="samples")
    (seed,) = documents.numbers(metadata.get("seed", 0), name="seed")
    place = subfolder(data_folder(metadata.get("data")), "nolima")
    items = [(test, book) for book in books(place) for test in needles(place, hops)]
    random.Random(f"nolima {seed}").shuffle(items)
    measure = load_measure(metadata)
    built = [
        sample(measure, test, book, length=length, depth=depth, seed=seed)
        for length in lengths
        for test, book in items[:samples]
        for depth in depths
    ]
    return documents.dataset(built, task=f"NoLiMa {hops}")


def sample(
    measure: Measure, test: Mapping[str, Any], book: Path, *, length: int, depth: float, seed: int
) -> dict[str, Any]:
    """Return one sample: the needle after a line of the book, at `depth` percent of at most `length` tokens."""
    character = random.Random(f"nolima {seed} {test['name']} {book.name} {depth}").choice(test["characters"])
    needle, question = (test[key].replace("{CHAR}", character) for key in ("needle", "question"))
    tokens = book_tokens(book, measure) if measure.limit is None or length <= measure.limit else ()
    tokens *= -(-length // max(len(tokens), 1))  # a book that is shorter than a prompt is repeated

    def around(budget: int) -> str:
        text = measure.decode(list(tokens[:budget]))
        before = text[: text.rfind("\n", 0, int(len(text) * depth / 100) + 1) + 1] if depth < 100 else f"{text}\n"
        snippet = f"{before}{needle}\n{text[len(before) :]}"
        prompt = test["template"].replace("{haystack}", snippet).replace("{question}", question)
        return prompt if measure.chat else prompt + PLAIN_END

    prompt = None
    if tokens:
        reserve = measure.count(around(0)) + NEW_TOKENS
        prompt = measure.longest(around, length=length, reserve=reserve, new_tokens=NEW_TOKENS)
    return {
        "prompt": documents.PLACEHOLDER if prompt is None else measure.wrap(prompt),
        "answer": character,
        "needle": needle,
        "test": test["name"],
        "book": book.name,
        "length": length,
        "depth": depth,
        "fits": prompt is not None,
    }


def needles(folder: Path | None, hops: str) -> Iterator[dict[str, Any]]:
    """Yield the tests of the needle set: name, needle, question, template, characters.

    Raises:
        UserError: the file is missing, or is another one.
    """
    path = next(iter(sorted(folder.rglob(NEEDLES))), None) if folder else None
    if path is None:
        raise missing(folder, NEEDLES)
    records = read_json(path)
    for number, record in enumerate(records if isinstance(records, list) else [records], start=1):
        if not isinstance(record, dict) or not all(record.get(field) for field in FIELDS):
            raise UserError(
                f"{path}: record {number} needs {', '.join(FIELDS)}", fix=f"get the published {NEEDLES} again"
            )
        if hops not in record["questions"]:
            continue
        for name, test in record["tests"].items():
            filled = {"needle": record["needle"], "question": record["questions"][hops]}
            for place, word in enumerate(test["input_args"], start=1):
                filled = {key: text.replace(f"{{{place}}}", word) for key, text in filled.items()}
            yield {
                "name": f"{record['id']}_{name}_{hops}",
                **filled,
                "template": record["task_template"],
                "characters": record["character_set"],
            }


def books(folder: Path | None) -> list[Path]:
    """Return the shuffled books, in the order of their names.

    Raises:
        UserError: there is none.
    """
    found = sorted(folder.rglob(f"{BOOKS}/*.txt")) if folder else []
    if not found:
        raise missing(folder, f"{BOOKS}/*.txt")
    return found


def missing(folder: Path | None, name: str) -> UserError:
    """Return the error for a file that is not there."""
    return UserError(
        f"NoLiMa: {name} not found in {folder or 'DATA/nolima'}; its data are not bundled (Adobe Research License, no "
        "commercial use)",
        fix=f"put {WHERE} there and give DATA with --data",
    )


@lru_cache(maxsize=8)
def book_tokens(path: Path, measure: Measure) -> tuple[int, ...]:
    """Return the ids of a book."""
    return tuple(measure.encode(path.read_text(encoding="utf-8")))


@documents.scored
def process_results(document: Mapping[str, Any], answer: str) -> dict[str, float]:
    """Score one answer: whether it contains the character's name, upper and lower case told apart, as published."""
    return {"contains_answer": float(document["answer"] in answer)}
