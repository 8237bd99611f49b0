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

import argparse
import itertools
import json
import logging
import os
import re
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
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
        for talk in data:
            builder.add_document(talk[column], [len(talk[column])])
        builder.finalize(f"{path}.idx")
    random_data.describe(
        prefix,
        num_documents=len(data),
        num_tokens=sum(len(ids) for ids, _ in data),
        vocab_size=VOCABULARY,
        bos_id=0,
        eos_id=1,
        mask_id=mask_id,
        roles=True,
    )


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
            [[talk] for talk in conversations], tokenizer, [[int(n)] for n in lengths]
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


def time_index(num_conversations: int, sequence_length: int) -> dict[str, float]:
    """Find and pack one epoch of conversations that exist as roles in memory only."""
    from meap_megatron import _C
    from meap_megatron.datasets.sft.config import SFTConfig
    from meap_megatron.datasets.sft.packing import build_index

    rng = np.random.default_rng(3)
    answers = np.clip(np.exp(rng.normal(np.log(90), 0.9, num_conversations)), 1, 1500).astype(np.int32)
    prompts = np.clip(np.exp(rng.normal(np.log(60), 0.5, num_conversations)), 8, 400).astype(np.int32)
    lengths = prompts + answers + 1
    runs = np.stack([prompts, answers, np.ones_like(answers)], axis=1).reshape(-1)
    roles = np.repeat(np.tile(np.array([0, 1, 2], dtype=np.uint8), num_conversations), runs)
    pointers = np.cumsum(lengths, dtype=np.int64) - lengths
    ids = np.zeros(len(roles), dtype=np.uint16)  # never read, and so never in memory
    data = SimpleNamespace(prefix="memory", native=_C.SFTSource(ids, 2 * pointers, roles, pointers, lengths))
    _, summary = build_index(
        data,  # type: ignore[arg-type]
        np.arange(num_conversations, dtype=np.int32),
        config=SFTConfig(mask_id=1),
        sequence_length=sequence_length,
        num_rows=None,
        order_seed=1,
    )
    return {
        "conversations": num_conversations,
        "segments": summary["num_originals"] + summary["num_copies"],
        "tokens": len(roles),
        "rows": summary["num_rows"],
        "seconds": summary["seconds"],
        "non_padding": round(summary["non_padding"], 5),
    }


def main(argv: list[str] | None = None) -> int:
    """Run, print the tables, and the JSON document last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="little data and few repetitions, for tests (off)")
    quick = parser.parse_args(argv).quick
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    rounds, calls, num_conversations = (3, 2, 300) if quick else (100, 4, 4000)
    with tempfile.TemporaryDirectory() as folder:
        contestants, about = make_contestants(Path(folder), num_conversations)
        timings = timing.interleaved({name: c.call for name, c in contestants.items()}, rounds=rounds, calls=calls)

    print(
        f"\n{about['conversations']} conversations, tokens: mean {about['mean_tokens']:.0f}, median "
        f"{about['median_tokens']:.0f}, longest {about['longest']}; {about['share_with_copy']:.0%} have a masked copy"
    )
    print(
        f"\n{f'rows of {SEQUENCE_LENGTH}':<42}{'us a row':>10}{'lowest':>9}{'examples':>10}{'examples/s':>13}"
        f"{'real tokens/s':>15}{'non-padding':>13}"
    )
    table: dict[str, dict[str, float]] = {}
    for name, contestant in contestants.items():
        time = timings[name]
        table[name] = {
            "us": round(time.median, 2),
            "examples_per_row": round(contestant.examples, 3),
            "examples_per_second": round(1e6 * contestant.examples / time.median),
            "real_tokens_per_second": round(1e6 * contestant.real_tokens / time.median),
            "non_padding": round(contestant.real_tokens / contestant.positions, 4),
        }
        line = table[name]
        print(
            f"  {name:<40}{time.median:>10.1f}{time.lowest:>9.1f}{contestant.examples:>10.2f}"
            f"{line['examples_per_second']:>13,}{line['real_tokens_per_second']:>15,}{line['non_padding']:>12.1%}"
        )
    index = time_index(20_000 if quick else 2_000_000, 4096)
    print(
        f"\nindex of one epoch, {index['conversations']:,} conversations, {index['segments']:,} segments, rows of 4096: "
        f"{index['seconds']:.2f} s, non-padding {index['non_padding']:.2%}\n"
    )
    mine = table["ours, packed, with copies"]
    ratios = {
        f"examples_per_second_over_{short}": round(mine["examples_per_second"] / table[name]["examples_per_second"], 1)
        for short, name in (
            ("megatron", "Megatron SFTDataset, conversation a line"),
            ("megatron_packed", "Megatron SFTDataset, packed lines"),
            ("official", "official rows, batch of 8 padded"),
        )
    }
    document = {
        "benchmark": "sft",
        "quick": quick,
        "sequence_length": SEQUENCE_LENGTH,
        "threads": 1,
        "rounds": rounds,
        "data": about,
        "rows": table,
        "ratios": ratios,
        "index": index,
        "environment": timing.environment("torch", "numpy", "megatron-core", "transformers", "tokenizers"),
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
