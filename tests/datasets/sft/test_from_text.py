"""From JSON lines through `meap preprocess sft` to rows: what is trained is the answers and their end tokens, as text."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from meap_megatron.cli.main import main
from meap_megatron.corpus.sidecar import read_sidecar
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.masks import answers
from meap_megatron.datasets.tokenizer import DatasetTokenizer
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
