"""The data of the experiment: filler, tokenizer, training rows through `meap preprocess text`, and test rows."""

import fcntl
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from experiments.retrieval_small.plan import Plan
from experiments.retrieval_small.rows import FACT, QUESTION, Row, Vocabulary, made_up_words, make_row
from meap_megatron.atomic import replace_text
from meap_megatron.demo.corpus import documents, standard_library
from meap_megatron.errors import RunError
from meap_megatron.tokenizer.train import train_tokenizer

SEED = 7
HELD_OUT = 10  # every tenth module of the library is filler of test rows only
LEAST_WORDS = 200  # of a module
TOKENIZER_ROWS = 4000
TRAIN_SHARE = 0.95  # the recipe's split


def prepare(plan: Plan, folder: Path) -> Path:
    """Make tokenizer, indexed training rows and test rows, unless they are there; return the prefix.

    Raises:
        RunError: a made-up word is not one token, or preprocessing failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits for the first to make them
        return _prepare(plan, folder)


def _prepare(plan: Plan, folder: Path) -> Path:
    prefix = folder / "rows"
    if (folder / "complete.json").is_file():
        return prefix
    texts = [text for _, text in documents(standard_library(), byte_limit=plan.corpus_bytes)]
    modules = [[word for word in text.split() if word not in (FACT, QUESTION)] for text in texts]
    modules = [module for module in modules if len(module) >= LEAST_WORDS]
    words = made_up_words(
        {word for text in texts for word in re.findall("[a-z]+", text)},
        num_keys=plan.num_keys,
        num_values=plan.num_values,
        seed=SEED,
    )
    train_filler = [module for index, module in enumerate(modules) if index % HELD_OUT]
    test_filler = modules[::HELD_OUT]

    # Rows need the lengths of words, and the tokenizer needs rows: its text is filler with facts, of about that length.
    draw = random.Random(f"tokenizer {SEED}")
    size = plan.seq_length
    shape: dict[str, Any] = {"words": words, "rounds": plan.rounds, "length": size}
    sample = [
        make_row(draw, filler=train_filler, num_facts=plan.facts[0], num_tokens=rough_tokens, **shape)
        for _ in range(TOKENIZER_ROWS)
    ]
    train_tokenizer((row.text for row in sample), folder / "tokenizer", vocab_size=plan.vocab_size)
    num_tokens = token_counter(folder / "tokenizer")
    check_single_tokens(words, num_tokens)

    def make(stream: str, index: int, num_facts: int, filler: list[list[str]], **other: int) -> Row:
        draw = random.Random(f"{stream} {SEED} {index}")
        return make_row(draw, filler=filler, num_facts=num_facts, num_tokens=num_tokens, **shape | other)

    def train_lines() -> Iterator[str]:
        for index in range(num_train_rows(plan)):
            row = make("train", index, plan.facts[index % len(plan.facts)], train_filler)
            yield json.dumps({"text": row.text}) + "\n"

    replace_text(folder / "rows.jsonl", "".join(train_lines()))
    for stream in plan.streams:
        rows = []
        for num_facts in plan.facts:
            count = plan.test_rows if num_facts == plan.facts[-1] else plan.test_rows // 2
            rows += [make(f"{stream} {num_facts}", index, num_facts, test_filler) for index in range(count)]
        write_test_rows(folder, stream, rows)
    for probe in plan.probes:
        other = {"length": probe.length, "distractors": probe.distractors}
        name = f"probe {probe.name}"
        rows = [make(name, index, probe.facts, test_filler, **other) for index in range(plan.test_rows)]
        write_test_rows(folder, probe.name, rows)
    preprocess(folder, prefix)
    names = (*plan.streams, *(probe.name for probe in plan.probes))
    tests = {f"test_{name}_sha256": file_hash(folder / f"test_{name}.json") for name in names}
    replace_text(folder / "complete.json", json.dumps(check_rows(prefix, length=size) | tests, indent=1) + "\n")
    return prefix


def identity(folder: Path) -> dict[str, Any]:
    """Return what tells finished data from other data: hashes of training and test rows, and their number."""
    found: dict[str, Any] = json.loads((folder / "complete.json").read_text(encoding="utf-8"))
    return found


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rough_tokens(word: str) -> int:
    """Return about how many tokens a word will be."""
    return 1 + len(word) // 3


def token_counter(tokenizer: Path) -> Any:
    """Return a function: word -> its tokens with a space before it."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    loaded.encode_special_tokens = True

    @cache
    def num_tokens(word: str) -> int:
        return len(loaded.encode(f" {word}", add_special_tokens=False).ids)

    return num_tokens


def check_single_tokens(words: Vocabulary, num_tokens: Any) -> None:
    """Refuse a tokenizer that splits a key, a value or a mark."""
    split = [word for word in (FACT, QUESTION, *words.keys, *words.values) if num_tokens(word) != 1]
    if split:
        raise RunError(f"the tokenizer splits {', '.join(split[:5])} ({len(split)} words); give it more pieces")


def num_train_rows(plan: Plan) -> int:
    """Return rows enough for one pass without a repeated row, those of the validation split on top."""
    return int(plan.train_iters * plan.batch_size / TRAIN_SHARE * 1.01) + 100


def preprocess(folder: Path, prefix: Path) -> None:
    """Index the rows as a user would."""
    words = ["preprocess", "text", folder / "rows.jsonl", "--tokenizer", folder / "tokenizer", "--output", prefix]
    command = [sys.executable, "-m", "meap_megatron.cli.main", *map(str, words), "--workers", "1", "--overwrite"]
    done = subprocess.run(command, env=os.environ, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise RunError(f"meap preprocess text ended with status {done.returncode}; its message stands above")


def check_rows(prefix: Path, *, length: int) -> dict[str, Any]:
    """Compare the index with what rows must be, and return what identifies the data.

    Raises:
        RunError: not every document has `length` tokens, so that samples would not be rows.
    """
    from meap_megatron.indexed.sidecar import read_sidecar

    sidecar = read_sidecar(prefix)
    if sidecar.num_tokens != sidecar.num_documents * length:
        raise RunError(
            f"{prefix} holds {sidecar.num_documents:,} rows and {sidecar.num_tokens:,} tokens; {length} per row were meant"
        )
    return {"content_hash": sidecar.content_hash, "rows": sidecar.num_documents, "tokens": sidecar.num_tokens}


def write_test_rows(folder: Path, stream: str, rows: list[Row]) -> None:
    """Write the test rows of a stream or probe."""
    replace_text(folder / f"test_{stream}.json", json.dumps([vars(row) for row in rows], indent=0) + "\n")


def read_test_rows(folder: Path, stream: str) -> list[Row]:
    """Return the test rows of a stream or probe."""
    found = json.loads((folder / f"test_{stream}.json").read_text(encoding="utf-8"))
    return [Row(text=row["text"], pairs=tuple(map(tuple, row["pairs"])), asked=tuple(row["asked"])) for row in found]
