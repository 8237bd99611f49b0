"""From JSON lines through `meap preprocess sft` to rows: the answers and their ends, and the published rows."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from meap_megatron.cli.main import main
from meap_megatron.corpus.verify import verify
from meap_megatron.datasets.sft.answer_masks import answers
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
from meap_megatron.indexed.sidecar import read_sidecar
from tests.datasets.sft.test_official import IGNORED, Turn, official, published_rows
from tests.support.corpus import write_byte_tokenizer

ROWS = [
    {
        "messages": [
            {"role": "user", "content": "Count to three."},
            {"role": "assistant", "content": "one two three"},
            {"role": "user", "content": "And on?"},
            {"role": "assistant", "content": "four " * 60 + "five"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Say yes."},
            {"role": "assistant", "content": "yes"},
        ]
    },
]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_byte_tokenizer(folder / "tokenizer", texts=("one two three four five yes",))
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    words = ["--tokenizer", str(folder / "tokenizer"), "--output", str(folder / "sft"), "--template", "vicuna"]
    assert main(["preprocess", "sft", str(folder / "chats.jsonl"), *words, "--workers", "1"]) == 0
    return str(folder / "sft")


@pytest.mark.parametrize("layout", ["separate", "concat", "ntp"])
def test_what_is_trained_reads_as_the_answers(tools, prefix, layout):
    sidecar = read_sidecar(prefix)
    tokenizer = Tokenizer.from_file(f"{prefix}.tokenizer/tokenizer.json")
    dataset = tools.train(
        prefix,
        sft=SFTConfig(mask_id=sidecar.tokenizer.mask_id, layout=layout),
        sequence_length=1024,
        tokenizer=DatasetTokenizer(sidecar.tokenizer),
    )
    assert len(dataset) == 1
    row, (items, _) = dataset[0], dataset.index.row(0)
    assert sorted(items.tolist()) == {"separate": [0, 1, 4], "concat": [2, 4], "ntp": [0, 4]}[layout]
    texts = {}
    for number, item in enumerate(items.tolist()):
        start, stop = row["cu_seqlens"][number : number + 2].tolist()
        if item == 2:
            stop = start + len(dataset.dataset.ids[0]) - 1  # the first half of the pair
        part = slice(start, stop)
        trained = row["labels"][part][row["loss_mask"][part].bool()].tolist()
        texts[item] = tokenizer.decode(trained, skip_special_tokens=False)
        if item == 1:
            masked = np.flatnonzero(row["tokens"][part] == sidecar.tokenizer.mask_id)
            assert len(trained) == int(0.1 * answers(dataset.dataset.roles[0])[1].num_tokens)
            assert len(masked) in (len(trained), len(trained) - 1)
    long = ROWS[0]["messages"][3]["content"]
    assert texts.pop(4) == "yes</s>"
    assert texts.pop(2 if layout == "concat" else 0) == f"one two three</s>{long}</s>"
    assert layout != "separate" or set(texts.pop(1)) <= set("four ive")
    assert not texts


# What the published procedure writes before an answer, with the template `vicuna`.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.</s>"
)
LETTERS = "abcdgjklmpqxz"  # no two of them are one token
ROOM = 80  # tokens of a row for question and answer of a first turn
DIALOGUES = {  # characters, which are tokens, of each question and answer; and the labels of each published row
    "short answer": ([(10, 5)], [[6]]),
    "row of exactly the longest length": ([(20, 59)], [[60, 5]]),
    "over-long answer": ([(10, 200)], [[70, 6]]),
    "answer cut by its end token only": ([(20, 60)], [[60, 5]]),
    "answer of 60 tokens of which 19 are kept": ([(60, 60)], [[20, 1]]),
    "answer of 45 tokens of which 19 are kept": ([(60, 45)], [[20]]),
    "prompt that leaves one token of a long answer": ([(78, 60)], [[2, 1]]),
    "prompt that leaves the label of one token": ([(79, 60)], [[1]]),
    "over-long prompt": ([(100, 60)], [[]]),
    "answer of more tokens than a role tells": ([(60, 400)], [[20, 1]]),
    "turns without history": ([(10, 51), (4, 60), (7, 900), (5, 20)], [[52, 5], [61, 6], [221, 22], [21]]),
}


def letters(count: int, *, first: int) -> str:
    return "".join(LETTERS[(first + i) % len(LETTERS)] for i in range(count))


def texts(name: str) -> list[tuple[str, str]]:
    """Return question and answer of each turn."""
    return [(letters(question, first=3), letters(answer, first=8)) for question, answer in DIALOGUES[name][0]]


def published_turns(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> list[Turn]:
    """Return the ids that the published procedure gives prompts and answers."""
    found = []
    for number, (question, answer) in enumerate(turns):
        source = ("</s>" if number else SYSTEM) + f"USER: {question} ASSISTANT:"
        bos = [] if number else [tokenizer.token_to_id("<s>")]
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in (source, answer)]
        found.append((bos + ids[0], ids[1]))
    return found


@pytest.fixture(scope="module")
def over_long(tmp_path_factory):
    """The prefix of all dialogues, the longest length, and the published rows of every turn."""
    folder = tmp_path_factory.mktemp("over_long")
    write_byte_tokenizer(folder / "tokenizer", texts=("one two three four five yes",))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    limit = len(published_turns(tokenizer, [("", "")])[0][0]) + ROOM
    with (folder / "chats.jsonl").open("w", encoding="utf-8") as file:
        for name in DIALOGUES:
            talk = [
                {"from": who, "value": text}
                for turn in texts(name)
                for who, text in zip(("human", "gpt"), turn, strict=True)
            ]
            file.write(json.dumps({"conversations": talk}) + "\n")
    words = ["--tokenizer", str(folder / "tokenizer"), "--output", str(folder / "sft"), "--template", "vicuna"]
    words += ["--multi-turn", "split", "--max-length", str(limit), "--workers", "1"]
    assert main(["preprocess", "sft", str(folder / "chats.jsonl"), *words]) == 0
    special = {"eos": tokenizer.token_to_id("</s>"), "mask": tokenizer.get_vocab_size()}
    turns = [turn for name in DIALOGUES for turn in published_turns(tokenizer, texts(name))]
    return str(folder / "sft"), limit, published_rows(turns, limit=limit, **special)


def joined(rows, *, mask, order):
    """Return the rows of layout `concat`: those of one answer behind each other.

    Nothing is published for that layout; between the halves stands the token that is the first half's last label.
    """
    found = []
    for ids, labels in rows:
        if mask not in ids:
            found.append((ids, labels))
            continue
        original = found.pop()
        halves = [original, (ids, labels)][:: 1 if order == "orig_first" else -1]
        middle = original[1][-1:]
        found.append((halves[0][0][:-1] + middle + halves[1][0], halves[0][1] + halves[1][1]))
    return found


@pytest.mark.parametrize(
    ("layout", "order"),
    [("separate", "orig_first"), ("ntp", "orig_first"), ("concat", "orig_first"), ("concat", "mask_first")],
)
def test_over_long_text_gives_the_published_rows(tools, over_long, layout, order):
    prefix, limit, expected = over_long
    info = read_sidecar(prefix).tokenizer
    if layout == "ntp":
        expected = [row for row in expected if info.mask_id not in row[0]]
    elif layout == "concat":
        expected = joined(expected, mask=info.mask_id, order=order)
    length = 2 * limit - 1 if layout == "concat" else limit - 1
    settings = official(tools, mask_id=info.mask_id, layout=layout, concat_order=order)
    dataset = tools.train(prefix, sft=settings, sequence_length=length, tokenizer=DatasetTokenizer(info))
    assert len(dataset) == len(expected)
    for number, (ids, labels) in enumerate(expected):
        row, size = dataset[number], len(ids) - 1
        assert row["cu_seqlens"][:2].tolist() == [0, size], number
        assert row["tokens"][:size].tolist() == ids[:-1], number
        trained = row["loss_mask"].bool()
        assert trained[:size].tolist() == [label != IGNORED for label in labels[1:]], number
        assert row["labels"][trained].tolist() == [label for label in labels[1:] if label != IGNORED], number
        assert not trained[size:].any()


def test_the_dialogues_are_what_they_are_called(over_long):
    prefix, limit, expected = over_long
    numbers = [sum(label != IGNORED for label in labels) for _, labels in expected]
    turns = [turn for _, turns in DIALOGUES.values() for turn in turns]
    assert numbers == [count for turn in turns for count in turn]
    assert len(expected[2][0]) == limit
    sidecar = read_sidecar(prefix)
    assert sidecar.sft["counts"] == {
        "read": 11,
        "kept": 13,
        "dropped_long": 0,
        "truncated": 8,
        "dropped_untrained": 1,
        "dropped_unanswered": 0,
        "dropped_functions": 0,
        "bad": 0,
    }
    assert sidecar.sft["num_trained_tokens"] == sum(turn[0] for turn in turns if turn)
    assert all(check.passed for check in verify(prefix))
