"""Key-value retrieval: find the value of one key in a JSON object of random UUIDs (Liu et al.).

The published sets are 500 examples of random keys; where they are absent, a seeded generator makes sets of the same kind.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import data_folder, find, read_records
from meap_megatron.evaluation.prompt_length import load_measure
from meap_megatron.evaluation.retrieval import documents, metrics, ruler, sized

EXAMPLES = 500
NEW_TOKENS = 100
FIELDS = ("ordered_kv_records", "key", "value")
INSTRUCTION = "Extract the value corresponding to the specified key in the JSON object below."
PUBLISHED, GENERATED = "published", "generated"


def build(*, num_keys: int, gold_index: int, **metadata: Any) -> dict[str, Any]:
    """Make the samples of one task; the harness calls this with the task's and the run's settings.

    Args:
        num_keys: keys of the object.
        gold_index: place of the key that is asked for, from 0.
        metadata: `data` (folder of the published files, optional), `samples`, `seed` of generated sets, and what names
            the model.

    Raises:
        UserError: data, tokenizer or a setting cannot be used.
    """
    samples = documents.count(metadata.get("samples"), name="samples")
    (seed,) = documents.numbers(metadata.get("seed", 0), name="seed")
    examples, source = load(data_folder(metadata.get("data")), num_keys=num_keys, samples=samples, seed=seed)
    measure = load_measure(metadata)
    built = []
    for example in examples:
        pairs = place([tuple(pair) for pair in example["ordered_kv_records"]], example["key"], gold_index=gold_index)
        prompt = render(pairs, example["key"])
        fits = measure.fits(prompt, new_tokens=NEW_TOKENS)
        built.append(
            {
                "prompt": measure.wrap(prompt) if fits else documents.PLACEHOLDER,
                "answer": example["value"],
                "num_keys": num_keys,
                "gold_index": gold_index,
                "source": source,
                "fits": fits,
            }
        )
    return documents.dataset(built, task=f"key-value retrieval with {num_keys} keys")


def build_filled(**metadata: Any) -> dict[str, Any]:
    """Make samples with as many generated pairs as fit in each length (HELMET's JSON-KV, without worked examples).

    Args:
        metadata: `lengths`, `samples` (of each length), `seed`, and what names the model.

    Raises:
        UserError: tokenizer or a setting cannot be used.
    """
    lengths = documents.numbers(metadata.get("lengths", ruler.LENGTHS), name="lengths")
    samples = documents.count(metadata.get("samples"), name="samples") or EXAMPLES
    (seed,) = documents.numbers(metadata.get("seed", 0), name="seed")

    def draw(units: int, index: int) -> sized.Draft:
        example = generate(units, seed=seed, index=index)
        return sized.Draft(question=render(example["ordered_kv_records"], example["key"]), outputs=[example["value"]])

    def maker(length: int) -> sized.Maker:
        return sized.Maker(draw=draw, fewest=lambda index: 2, most=length, new_tokens=NEW_TOKENS)

    measure = load_measure(metadata)
    built = sized.build(maker, measure, lengths=lengths, samples=samples, seed=seed, key={"task": "json_kv"})
    return documents.dataset([{**sample, "kind": "json_kv"} for sample in built], task="JSON key-value retrieval")


def load(
    folder: Path | None, *, num_keys: int, samples: int | None, seed: int
) -> tuple[Sequence[dict[str, Any]], str]:
    """Return the examples of the published file if the folder has it, else generated ones, and which of the two."""
    if folder is not None and (path := find(folder, f"kv-retrieval-{num_keys}_keys.jsonl.gz")):
        return read_records(path, FIELDS)[:samples], PUBLISHED
    return [generate(num_keys, seed=seed, index=index) for index in range(samples or EXAMPLES)], GENERATED


def generate(num_keys: int, *, seed: int, index: int) -> dict[str, Any]:
    """Make one example: a pure function of seed, index and number of keys."""
    draw = random.Random(f"kv {seed} {num_keys} {index}")
    pairs = [[str(uuid.UUID(int=draw.getrandbits(128), version=4)) for _ in range(2)] for _ in range(num_keys)]
    key, value = draw.choice(pairs)
    return {"ordered_kv_records": pairs, "key": key, "value": value}


def place(pairs: Sequence[tuple[str, str]], key: str, *, gold_index: int) -> list[tuple[str, str]]:
    """Return the pairs with the one of `key` moved to `gold_index`; the others keep their order.

    Raises:
        UserError: the key is not there, or the place is behind the end.
    """
    gold = [pair for pair in pairs if pair[0] == key]
    if len(gold) != 1 or not 0 <= gold_index < len(pairs):
        raise UserError(
            f"key {key!r} occurs {len(gold)} times among {len(pairs)} pairs and is to be at {gold_index}; "
            f"it must occur there once"
        )
    others = [pair for pair in pairs if pair[0] != key]
    return [*others[:gold_index], *gold, *others[gold_index:]]


def render(pairs: Sequence[tuple[str, str]], key: str) -> str:
    """Return the published prompt."""
    shown = ",\n ".join(f'"{name}": "{value}"' for name, value in pairs)
    return f'{INSTRUCTION}\n\nJSON data:\n{{{shown}}}\n\nKey: "{key}"\nCorresponding value:'


@documents.scored
def process_results(document: Mapping[str, Any], answer: str) -> dict[str, float]:
    """Score one answer."""
    return {"contains_value": metrics.contains_value(answer, document["answer"])}
