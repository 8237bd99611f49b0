"""Index and cache building at scale: 1e9 tokens in 1e7 documents, blends of 100 datasets, 10 million conversations.

What is measured, time and memory, ours beside Megatron's where there is one:

* the `.idx` of 1e7 documents: our writer, block by block from a file of lengths; Megatron's `IndexedDatasetBuilder` at its
  end (`finalize`), handed what it collects while documents are added: Python lists of lengths and of document indices.
* the sample index: `obtain_indices`, what `meap cache` and `meap train` call, and `BlendedMegatronDatasetBuilder` with
  `GPTDataset`. Ours runs Megatron's builder too; the difference is what we add: checks of the data, checksums, flush, one
  rename. Then the same again with the index in the cache, which is what every start of a run does.
* the same for a blend of 100 datasets that hold the same documents together.
* fine-tuning: `obtain_indices` over conversations whose roles are on the disk.

Token ids are never read here: the `.bin` is a sparse file. The roles are written, one byte per token. Every measurement is a
fork of this process, which has imported everything; its memory is what its own pages (RssAnon) grow by, read 50 times a
second: files that are mapped are not in it. Contestants take turns; figures are medians over repeats, by the clock.
The last line is one JSON document.

    python benchmarks/index.py                                  about 5 minutes, 6 GB of disk
    python benchmarks/index.py --documents 1e6 --conversations 1e6
    python benchmarks/index.py --quick                          for tests: the figures mean nothing
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with OpenMP threads must not fork

import numpy as np
import random_data
import timing

TOKENS_PER_DOCUMENT = 100
SEQUENCE_LENGTH = 4096
NUM_BLENDED = 100
MASK_ID = 32_000
BLOCK = 2**20


def write_pair(prefix: Path, lengths: np.ndarray, *, dtype: str = "uint16") -> None:
    """Write the index of documents of these lengths, and a sparse .bin if there is none."""
    from meap_megatron.indexed.pair import one_sequence_per_document, write_index

    with open(f"{prefix}.idx", "wb") as stream:
        write_index(
            stream,
            dtype=dtype,
            num_sequences=len(lengths),
            num_document_indices=len(lengths) + 1,
            lengths=lambda: (lengths[i : i + BLOCK] for i in range(0, len(lengths), BLOCK)),
            document_indices=lambda: one_sequence_per_document(len(lengths)),
        )
    if not os.path.exists(f"{prefix}.bin"):
        with open(f"{prefix}.bin", "wb") as stream:
            stream.truncate(int(lengths.sum(dtype=np.int64)) * np.dtype(dtype).itemsize)


def info() -> Any:
    """Return the identity of the tokenizer."""
    return random_data.tokenizer_info(mask_id=MASK_ID, vocab_size=MASK_ID + 1)


def describe(prefix: Path, lengths: np.ndarray) -> None:
    """Write the sidecar of a pair."""
    num_tokens = int(lengths.sum(dtype=np.int64))
    random_data.describe(prefix, num_documents=len(lengths), num_tokens=num_tokens, tokenizer=info())


def write_text(folder: Path, num_documents: int) -> list[Path]:
    """Write one dataset of all documents ("whole") and NUM_BLENDED that share them; return the prefixes of the latter."""
    lengths = np.random.default_rng(1).integers(1, 2 * TOKENS_PER_DOCUMENT, size=num_documents, dtype=np.int32)
    lengths.tofile(folder / "lengths")
    parts = [folder / f"part{i}" for i in range(NUM_BLENDED)]
    for prefix, part in zip([folder / "whole", *parts], [lengths, *np.array_split(lengths, NUM_BLENDED)], strict=True):
        write_pair(prefix, part)
        describe(prefix, part)
    return parts


def write_conversations(prefix: Path, num_conversations: int) -> None:
    """Write roles and indices of conversations with one answer, about half of them longer than 50 tokens."""
    rng = np.random.default_rng(3)
    answers = np.clip(np.exp(rng.normal(np.log(60), 0.9, num_conversations)), 1, 1500).astype(np.int32)
    prompts = np.clip(np.exp(rng.normal(np.log(40), 0.5, num_conversations)), 8, 400).astype(np.int32)
    lengths = prompts + answers + 1
    roles = prefix.with_name(f"{prefix.name}.roles")
    with open(f"{roles}.bin", "wb") as stream:
        for start in range(0, num_conversations, BLOCK):
            runs = [array[start : start + BLOCK] for array in (prompts, answers, np.ones_like(answers))]
            pattern = np.tile(np.array([0, 1, 2], dtype=np.uint8), len(runs[0]))
            stream.write(np.repeat(pattern, np.stack(runs, axis=1).reshape(-1)).tobytes())
    write_pair(roles, lengths, dtype="uint8")
    write_pair(prefix, lengths)
    describe(prefix, lengths)


def our_idx(folder: Path) -> None:
    from meap_megatron.indexed.pair import length_blocks, one_sequence_per_document, write_index

    num_documents = (folder / "lengths").stat().st_size // 4
    with open(folder / "ours.idx", "wb") as stream:
        write_index(
            stream,
            dtype="uint16",
            num_sequences=num_documents,
            num_document_indices=num_documents + 1,
            lengths=lambda: length_blocks([folder / "lengths"]),
            document_indices=lambda: one_sequence_per_document(num_documents),
        )


def megatron_idx(folder: Path) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(folder / "megatron.bin"), dtype=np.uint16)
    builder.sequence_lengths = np.fromfile(folder / "lengths", dtype=np.int32).tolist()
    builder.document_indices = list(range(len(builder.sequence_lengths) + 1))
    builder.finalize(str(folder / "megatron.idx"))


def text_config(prefixes: list[Path], cache: Path, *, ours: bool) -> Any:
    """Return the configuration of a run over a dataset, or a blend with weights 1, 2, 3, ..."""
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    from meap_megatron.config import MaskConfig
    from meap_megatron.datasets.gpt import MEAPGPTDatasetConfig
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer

    weights = [float(i + 1) for i in range(len(prefixes))] if len(prefixes) > 1 else None
    settings = {
        "random_seed": 1234,
        "sequence_length": SEQUENCE_LENGTH,
        "blend": ([str(prefix) for prefix in prefixes], weights),
        "split": "98,2,0",
        "path_to_cache": str(cache),
        "tokenizer": DatasetTokenizer(info()),
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
    }
    if not ours:
        return GPTDatasetConfig(**settings)
    return MEAPGPTDatasetConfig(**settings, meap=MaskConfig(mask_id=MASK_ID, ratio=0.15))


def sizes_of(num_documents: int) -> list[int | None]:
    """Return the samples of a run that reads the training split about twice."""
    samples = max(8, num_documents * TOKENS_PER_DOCUMENT // SEQUENCE_LENGTH)
    return [2 * samples, max(2, samples // 100), 0]


def our_samples(prefixes: list[Path], cache: Path, sizes: list[int | None]) -> None:
    from meap_megatron.datasets.provider import obtain_indices

    obtain_indices(text_config(prefixes, cache, ours=True), sizes=sizes, folders=[cache], say=print)


def megatron_samples(prefixes: list[Path], cache: Path, sizes: list[int | None]) -> None:
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset

    config = text_config(prefixes, cache, ours=False)
    BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()


def our_rows(prefix: Path, cache: Path) -> None:
    from meap_megatron.datasets.provider import obtain_indices
    from meap_megatron.datasets.sft.config import SFTConfig
    from meap_megatron.datasets.sft.dataset import MEAPSFTDatasetConfig
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer

    config = MEAPSFTDatasetConfig(
        random_seed=1234,
        sequence_length=SEQUENCE_LENGTH,
        blend=([str(prefix)], None),
        split="100,0,0",
        path_to_cache=str(cache),
        tokenizer=DatasetTokenizer(info()),
        sft=SFTConfig(mask_id=MASK_ID),
    )
    obtain_indices(config, sizes=[None, None, None], folders=[cache], say=print)


def own_mib(process: int) -> float:
    """Return the memory that belongs to a process alone, mapped files not counted."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def measure(work: Callable[[], None]) -> dict[str, float]:
    """Run in a fork; return its seconds and the MiB that it grew by at the most.

    Raises:
        SystemExit: it failed.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    began_at = own_mib(os.getpid())
    child = os.fork()
    if child == 0:
        try:
            began = time.perf_counter()
            work()
            os.write(writing, str(time.perf_counter() - began).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    peak = 0.0
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        try:
            peak = max(peak, own_mib(child))
        except (OSError, StopIteration):
            pass  # it ends at this moment
        time.sleep(0.02)
    with os.fdopen(reading) as stream:
        said = stream.read()
    if status != 0:
        raise SystemExit("a measurement failed; see its traceback above")
    return {"seconds": float(said), "mib": max(0.0, peak - began_at)}


def contests(folder: Path, parts: list[Path], sizes: list[int | None]) -> dict[str, tuple[Callable[[], None], ...]]:
    """Return measurement -> what ours does, and what Megatron does if it has it, in the order in which they must run."""
    mine, theirs = folder / "cache-ours", folder / "cache-megatron"
    found: dict[str, tuple[Callable[[], None], ...]] = {
        "idx": (lambda: our_idx(folder), lambda: megatron_idx(folder)),
    }
    for name, prefixes in (("samples", [folder / "whole"]), ("blend", parts)):
        pair = (
            lambda prefixes=prefixes, name=name: our_samples(prefixes, mine / name, sizes),
            lambda prefixes=prefixes, name=name: megatron_samples(prefixes, theirs / name, sizes),
        )
        found[name] = pair
        found[f"{name}, cached"] = pair  # the same once more: the index is there
    found["rows"] = (lambda: our_rows(folder / "sft", mine / "rows"),)
    return found


def main() -> int:
    """Run, print the table, and the JSON document last."""
    parser = timing.arguments(__doc__)
    parser.add_argument("--documents", type=float, default=1e7, help="of 100 tokens in the mean (1e7)")
    parser.add_argument("--conversations", type=float, default=1e7, help="for fine-tuning (1e7)")
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement (3)")
    parser.add_argument("--folder", type=Path, help="where the files go for the time being (the system's)")
    args = parser.parse_args()
    documents, conversations = (20_000, 2_000) if args.quick else (int(args.documents), int(args.conversations))
    timing.use_one_thread()
    import meap_megatron.datasets.provider  # noqa: F401  the forks find it imported

    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        parts = write_text(folder, documents)
        write_conversations(folder / "sft", conversations)
        for _ in range(1 if args.quick else args.repeats):
            for what, pair in contests(folder, parts, sizes_of(documents)).items():
                for who, work in zip(("ours", "megatron"), pair, strict=False):
                    results.setdefault(what, {}).setdefault(who, []).append(measure(work))
            same = (folder / "ours.idx").read_bytes() == (folder / "megatron.idx").read_bytes()
            for cache in folder.glob("cache-*"):
                shutil.rmtree(cache)
    assert same, "the two .idx differ"

    table = {
        what: {
            who: {unit: round(statistics.median(run[unit] for run in runs), 3) for unit in ("seconds", "mib")}
            for who, runs in pair.items()
        }
        for what, pair in results.items()
    }
    print(f"\n{documents:,} documents of {TOKENS_PER_DOCUMENT} tokens; {conversations:,} conversations")
    columns = [(who, unit) for unit in ("seconds", "mib") for who in ("ours", "megatron")]
    timing.print_table(
        ("", "ours s", "Megatron s", "ours MiB", "Megatron MiB"),
        *(
            (what, *(f"{pair[who][unit]:,.2f}" if who in pair else "-" for who, unit in columns))
            for what, pair in table.items()
        ),
    )
    both = {what: pair for what, pair in table.items() if "megatron" in pair}
    ratios = {
        f"megatron_over_ours_{what.replace(', ', '_')}_seconds": pair["megatron"]["seconds"] / pair["ours"]["seconds"]
        for what, pair in both.items()
    }
    ratios["megatron_over_ours_idx_mib"] = both["idx"]["megatron"]["mib"] / max(1.0, both["idx"]["ours"]["mib"])
    return timing.publish(
        "index",
        quick=args.quick,
        ratios=ratios,
        packages=("torch", "numpy", "megatron-core"),
        # Milliseconds, of which most are the flush to a disk that others use.
        not_judged=[name for name in ratios if "_cached_" in name],
        documents=documents,
        conversations=conversations,
        repeats=args.repeats,
        results=table,
    )


if __name__ == "__main__":
    sys.exit(main())
