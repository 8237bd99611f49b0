"""What a fine-tuning row costs and how much of it is padding: ours, Megatron's SFTDataset, and one row per example.

Two questions, each a table:

1. Rows: `dataset[i]` at sequence length 2048 on Alpaca-like conversations (log-normal lengths, about 200 tokens).
   - ours: packed with masked copies, packed without, and one segment per row (the official layout at a fixed length);
   - Megatron's own SFTDataset, which tokenises whenever it is read: one conversation per line, and lines that the user
     has packed (it needs user-made packs to fill a row; ours are packed best). It reads a list of parsed lines instead
     of a file, which spares it the reading and the package `datasets`;
   - the official rows, tokenised beforehand, in random batches of 8, each padded to its longest row and a multiple
     of 4 by the collator of transformers that the official code uses. One batch is one call.
2. The index: finding and packing the segments of one epoch, for 2 M conversations.

One process, one thread. Contestants take turns; figures are medians over rounds. The last line is one JSON document.

    python benchmarks/sft.py            about half a minute
    python benchmarks/sft.py --quick    for tests: the figures mean nothing
"""

import itertools
import json
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and NumPy are loaded
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import random_data
import timing

SEQUENCE_LENGTH = 2048
BATCH = 8  # rows of an official micro-batch
VOCABULARY = 4000
SYSTEM = "You are a helpful, excellent and smart assistant."
PAD = "<SPECIAL_233>"  # Megatron's pad token for the template below
TEMPLATE = "nemotron-h-aligned"  # Megatron's default, and one that trains answers only

Message = dict[str, str]
Tokenised = tuple[np.ndarray, np.ndarray]  # ids and roles of one conversation


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A function that makes one row (or batch), and what its rows hold on average."""

    call: Callable[[int], object]
    examples: float
    real_tokens: float
    positions: float


def train_tokenizer(folder: Path, words: list[str]) -> None:
    """Save a byte-level BPE with the special tokens of Megatron's template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "[MASK]", PAD, "<SPECIAL_10>", "<SPECIAL_11>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_conversations(words: list[str], count: int) -> list[list[Message]]:
    """Return single-turn conversations of words, with log-normal lengths."""
    rng = np.random.default_rng(1)
    lengths = np.exp(rng.normal(np.log([28, 72]), [0.7, 0.9], size=(count, 2)))
    found = []
    for num_prompt, num_answer in np.clip(lengths, 3, 500).astype(int).tolist():
        text = [" ".join(words[i] for i in rng.integers(len(words), size=n)) for n in (num_prompt, num_answer)]
        found.append(
            [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": text[0]},
                {"role": "assistant", "content": text[1]},
            ]
        )
    return found


def tokenise(tokenizer: Any, conversation: list[Message]) -> Tokenised:
    """Return ids, and roles that train what Megatron's template trains; the last token closes the answer."""
    ids, targets = tokenizer.tokenize_conversation(conversation, return_target=True, add_generation_prompt=False)
    roles = (targets != -100).astype(np.uint8)
    roles[-1] = 2
    return ids, roles


def write_data(prefix: Path, data: list[Tokenised], *, mask_id: int) -> None:
    """Write ids, roles and a sidecar as `meap preprocess sft` does."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    for path, column, dtype in ((f"{prefix}", 0, np.uint16), (f"{prefix}.roles", 1, np.uint8)):
        builder = IndexedDatasetBuilder(f"{path}.bin", dtype=dtype)
        for conversation in data:
            builder.add_document(conversation[column], [len(conversation[column])])
        builder.finalize(f"{path}.idx")
    info = random_data.tokenizer_info(mask_id=mask_id, vocab_size=VOCABULARY, bos_id=0, eos_id=1)
    random_data.describe(prefix, num_documents=len(data), num_tokens=sum(len(ids) for ids, _ in data), tokenizer=info)


def ours(prefix: Path, *, mask_id: int, **settings: Any) -> Contestant:
    """Return our dataset with some settings, through Megatron's builder."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder

    from meap_megatron.datasets.sft.config import SFTConfig
    from meap_megatron.datasets.sft.dataset import MEAPSFTDataset, MEAPSFTDatasetConfig

    config = MEAPSFTDatasetConfig(
        random_seed=1,
        sequence_length=SEQUENCE_LENGTH,
        blend=([str(prefix)], None),
        split="1,0,0",
        path_to_cache=str(prefix.parent / "cache"),
        sft=SFTConfig(mask_id=mask_id, **settings),
    )
    dataset = BlendedMegatronDatasetBuilder(MEAPSFTDataset, [None] * 3, lambda: True, config).build()[0]
    num_rows, summary = len(dataset), dataset.summary
    return Contestant(
        call=lambda i: dataset[i % num_rows],
        examples=(summary["num_originals"] + summary["num_copies"]) / num_rows,
        real_tokens=summary["non_padding"] * SEQUENCE_LENGTH,
        positions=SEQUENCE_LENGTH,
    )


def megatron(lines: list[list[list[Message]]], tokenizer: Any, lengths: list[list[int]]) -> Contestant:
    """Return Megatron's SFTDataset over lines, each a list of conversations."""
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
    from megatron.core.datasets.utils import Split
    from megatron.training.datasets.sft_dataset import SFTDataset

    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=SEQUENCE_LENGTH,
        split="1,0,0",
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        context_parallel_size=1,
    )
    parsed = [list(itertools.chain.from_iterable(line)) for line in lines]
    dataset = SFTDataset(parsed, None, np.arange(len(parsed)), len(parsed), Split.train, config)
    real = [min(sum(line), SEQUENCE_LENGTH) for line in lengths]
    return Contestant(
        call=lambda i: dataset[i % len(parsed)],
        examples=float(np.mean([len(line) for line in lengths])),
        real_tokens=float(np.mean(real)),
        positions=SEQUENCE_LENGTH,
    )


def official(data: list[Tokenised], folder: Path, *, mask_id: int) -> Contestant:
    """Return random batches of official rows: each conversation, and its masked copy if the answer is long."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq

    rng = np.random.default_rng(2)
    rows = []
    for ids, roles in data:
        rows.append({"input_ids": ids.tolist(), "labels": np.where(roles > 0, ids, -100).tolist()})
        answer = np.flatnonzero(roles == 1)
        if len(answer) > 50:
            masked = rng.choice(answer, max(1, int(len(answer) * 0.10)), replace=False)
            hidden, labels = ids.copy(), np.full_like(ids, -100)
            hidden[masked], labels[masked] = mask_id, ids[masked]
            rows.append({"input_ids": hidden.tolist(), "labels": labels.tolist()})
    for row in rows:
        row["attention_mask"] = [1] * len(row["input_ids"])
    order = rng.permutation(len(rows))[: len(rows) // BATCH * BATCH].reshape(-1, BATCH)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    collate = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=4, label_pad_token_id=-100)
    sizes = np.array([[len(rows[i]["input_ids"]) for i in batch] for batch in order])
    return Contestant(
        call=lambda i: collate([rows[j] for j in order[i % len(order)]]),
        examples=BATCH,
        real_tokens=float(sizes.sum(axis=1).mean()),
        positions=float((-(-sizes.max(axis=1) // 4) * 4 * BATCH).mean()),
    )


def make_contestants(folder: Path, num_conversations: int) -> tuple[dict[str, Contestant], dict[str, float]]:
    """Return the contestants, and what the conversations are like."""
    from megatron.core.tokenizers import MegatronTokenizer

    from meap_megatron import _C

    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    words = re.findall(r"[a-z]{2,}", " ".join(path.read_text(encoding="utf-8") for path in sources))
    train_tokenizer(folder / "tokenizer", words)
    tokenizer = MegatronTokenizer.from_pretrained(
        tokenizer_path=str(folder / "tokenizer"), metadata_path={"library": "sft"}, prompt_format=TEMPLATE
    )
    conversations = make_conversations(words, num_conversations)
    data = [tokenise(tokenizer, conversation) for conversation in conversations]
    prefix, mask_id = folder / "data", 2
    write_data(prefix, data, mask_id=mask_id)

    lengths = np.array([len(ids) for ids, _ in data], dtype=np.int32)
    offsets, members = _C.sft_pack(lengths, SEQUENCE_LENGTH, len(lengths))
    packs = [members[start:stop].tolist() for start, stop in itertools.pairwise(offsets.tolist())]
    contestants = {
        "ours, packed, with copies": ours(prefix, mask_id=mask_id),
        "ours, packed, no copies": ours(prefix, mask_id=mask_id, layout="ntp"),
        "ours, one segment per row": ours(prefix, mask_id=mask_id, pack=False),
        "Megatron SFTDataset, conversation a line": megatron(
            [[one] for one in conversations], tokenizer, [[int(n)] for n in lengths]
        ),
        "Megatron SFTDataset, packed lines": megatron(
            [[conversations[i] for i in pack] for pack in packs],
            tokenizer,
            [[int(lengths[i]) for i in pack] for pack in packs],
        ),
        "official rows, batch of 8 padded": official(data, folder / "tokenizer", mask_id=mask_id),
    }
    about = {
        "conversations": num_conversations,
        "mean_tokens": float(lengths.mean()),
        "median_tokens": float(np.median(lengths)),
        "longest": int(lengths.max()),
        "share_with_copy": float(np.mean([(roles == 1).sum() > 50 for _, roles in data])),
    }
    return contestants, about


def main() -> int:
    """Run, print the table, and the JSON document last."""
    quick = timing.arguments(__doc__).parse_args().quick
    timing.use_one_thread()
    rounds, calls, num_conversations = (3, 2, 300) if quick else (100, 4, 4000)
    with tempfile.TemporaryDirectory() as folder:
        contestants, about = make_contestants(Path(folder), num_conversations)
        timings = timing.interleaved({name: c.call for name, c in contestants.items()}, rounds=rounds, calls=calls)

    print(
        f"\n{about['conversations']} conversations, tokens: mean {about['mean_tokens']:.0f}, median "
        f"{about['median_tokens']:.0f}, longest {about['longest']}; {about['share_with_copy']:.0%} have a masked copy"
    )
    table = {
        name: {
            "us": round(timings[name].median, 2),
            "examples_per_row": round(one.examples, 3),
            "examples_per_second": round(1e6 * one.examples / timings[name].median),
            "real_tokens_per_second": round(1e6 * one.real_tokens / timings[name].median),
            "non_padding": round(one.real_tokens / one.positions, 4),
        }
        for name, one in contestants.items()
    }
    timing.print_table(
        (f"rows of {SEQUENCE_LENGTH}", "us a row", "examples", "examples/s", "real tokens/s", "non-padding"),
        *(
            (
                name,
                f"{line['us']:.1f}",
                f"{line['examples_per_row']:.2f}",
                f"{line['examples_per_second']:,}",
                f"{line['real_tokens_per_second']:,}",
                f"{line['non_padding']:.1%}",
            )
            for name, line in table.items()
        ),
    )
    mine = table["ours, packed, with copies"]["examples_per_second"]
    return timing.publish(
        "sft",
        quick=quick,
        ratios={
            f"examples_per_second_over_{short}": mine / table[name]["examples_per_second"]
            for short, name in (
                ("megatron", "Megatron SFTDataset, conversation a line"),
                ("megatron_packed", "Megatron SFTDataset, packed lines"),
                ("official", "official rows, batch of 8 padded"),
            )
        },
        packages=("torch", "numpy", "megatron-core", "transformers", "tokenizers"),
        sequence_length=SEQUENCE_LENGTH,
        threads=1,
        rounds=rounds,
        data=about,
        rows=table,
    )


if __name__ == "__main__":
    sys.exit(main())
