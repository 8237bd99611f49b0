"""What masking costs per sample: Megatron's GPTDataset, the official masking on top of it, NumPy, torch, and ours.

Three questions, each a table:

1. Whole samples: `dataset[i]` at sequence length 4096, documents of about 600 tokens, data in the page cache. The
   alternatives get the sample from GPTDataset and do what is needed and no more: choose positions, copy the tokens
   (they share memory with the labels), write the mask id.
2. The choice of 614 of 4095 positions alone.
3. The floor: copying the bytes that leave a sample.

One process, one thread. Contestants take turns; figures are medians over rounds. The last line is one JSON document.

    python benchmarks/sample.py            about ten seconds
    python benchmarks/sample.py --quick    for tests: the figures mean nothing
"""

import argparse
import hashlib
import json
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and NumPy are loaded

import numpy as np
import timing

SEQUENCE_LENGTH = 4096  # input tokens, the paper's
RATIO = 0.15
NUM_MASKED = 614  # floor(4096 * 0.15)
MASK_ID = 32_000
DOCUMENT_TOKENS = 600  # mean length of a document
BATCH = 8  # samples per call of the batch entry: their positions stay in the cache


def write_data(prefix: Path, *, num_documents: int) -> None:
    """Write random ids as an indexed dataset with a sidecar."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    from meap_megatron.corpus.sidecar import Sidecar, TokenizerInfo, write_sidecar

    rng = np.random.default_rng(1)
    lengths = rng.integers(DOCUMENT_TOKENS // 2, 3 * DOCUMENT_TOKENS // 2, size=num_documents)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for length in lengths.tolist():
        builder.add_document(rng.integers(3, MASK_ID, size=length), [length])
    builder.finalize(f"{prefix}.idx")
    data = [Path(f"{prefix}{suffix}").read_bytes() for suffix in (".bin", ".idx")]
    info = TokenizerInfo(
        fingerprint="0" * 64,
        folder=None,
        vocab_size=MASK_ID + 1,
        bos_id=1,
        eos_id=2,
        pad_id=None,
        mask_id=MASK_ID,
        mask_token="[MASK]",
    )
    write_sidecar(
        prefix,
        Sidecar(
            kind="text",
            content_hash=hashlib.sha256(b"".join(data)).hexdigest(),
            num_documents=num_documents,
            num_tokens=int(lengths.sum()),
            bin_bytes=len(data[0]),
            idx_bytes=len(data[1]),
            dtype="uint16",
            add_bos=False,
            add_eos=False,
            tokenizer=info,
            libraries={},
        ),
    )


def build(prefix: Path, *, masked: bool):
    """Return the train split: MEAPGPTDataset, or Megatron's GPTDataset."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    from meap_megatron.config import MaskConfig
    from meap_megatron.corpus.sidecar import read_sidecar
    from meap_megatron.datasets.gpt import MEAPGPTDataset, MEAPGPTDatasetConfig
    from meap_megatron.datasets.tokenizer import DatasetTokenizer

    settings = {
        "random_seed": 1234,
        "sequence_length": SEQUENCE_LENGTH,
        "blend": ([str(prefix)], None),
        "split": "1,0,0",
        "path_to_cache": str(prefix.parent / "cache"),
        "tokenizer": DatasetTokenizer(read_sidecar(prefix).tokenizer),
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
    }
    if masked:
        config = MEAPGPTDatasetConfig(**settings, meap=MaskConfig(mask_id=MASK_ID, ratio=RATIO))
        return BlendedMegatronDatasetBuilder(MEAPGPTDataset, [None] * 3, lambda: True, config).build()[0]
    config = GPTDatasetConfig(**settings)
    return BlendedMegatronDatasetBuilder(GPTDataset, [None] * 3, lambda: True, config).build()[0]


def sample_contestants(prefix: Path) -> tuple[dict[str, Callable[[int], object]], int]:
    """Return the whole-sample contestants and the bytes that leave one sample."""
    import torch

    plain, ours = build(prefix, masked=False), build(prefix, masked=True)
    num_samples = len(plain)
    rng = np.random.default_rng(1)

    def gpt(i: int):
        return plain[i % num_samples]

    def with_positions(choose: Callable[[int], object]) -> Callable[[int], object]:
        def contestant(i: int):
            sample = plain[i % num_samples]
            tokens = sample["tokens"].clone()
            tokens[choose(i)] = MASK_ID
            sample["tokens"] = tokens
            return sample

        return contestant

    contestants = {
        "GPTDataset": gpt,
        "GPTDataset + official masking": with_positions(official_choice),
        "GPTDataset + numpy choice": with_positions(
            lambda i: torch.from_numpy(rng.choice(SEQUENCE_LENGTH - 1, NUM_MASKED, replace=False))
        ),
        "GPTDataset + torch randperm": with_positions(lambda i: torch.randperm(SEQUENCE_LENGTH - 1)[:NUM_MASKED]),
        "MEAPGPTDataset": lambda i: ours[i % num_samples],
    }
    for name, call in contestants.items():
        masked = int((call(0)["tokens"] == MASK_ID).sum())
        assert masked == (0 if name == "GPTDataset" else NUM_MASKED), (name, masked)
    return contestants, sum(field.nbytes for field in plain[0].values())


def official_choice(i: int) -> list[int]:
    """Choose as the official pre-training code does at step i."""
    random.seed(50 + i % 51)
    return random.sample(range(0, SEQUENCE_LENGTH - 1), NUM_MASKED)


def position_contestants() -> dict[str, Callable[[int], object]]:
    """Return the contestants that only choose positions; the batch makes BATCH samples per call."""
    import torch

    from meap_megatron.masking import mask_positions, mask_positions_batch

    rng = np.random.default_rng(1)
    ours = {"seed": 1234, "dataset_key": 5678, "length": SEQUENCE_LENGTH, "ratio": RATIO}
    indices = np.arange(BATCH)
    return {
        "ours, C++ loop": lambda i: mask_positions_batch(**ours, sample_indices=indices),
        "ours, one Python call": lambda i: mask_positions(**ours, sample_index=i),
        "official random.sample": official_choice,
        "numpy choice": lambda i: rng.choice(SEQUENCE_LENGTH - 1, NUM_MASKED, replace=False),
        "torch randperm": lambda i: torch.randperm(SEQUENCE_LENGTH - 1)[:NUM_MASKED],
    }


def print_table(title: str, timings: dict[str, timing.Timing], base: str) -> None:
    """Print one table, times in microseconds per sample and as a multiple of the base."""
    print(f"\n{title:<34}{'median us':>10}{'lowest':>10}{'highest':>10}{'x ' + base:>24}")
    for name, time in timings.items():
        ratio = time.median / timings[base].median
        print(f"  {name:<32}{time.median:>10.2f}{time.lowest:>10.2f}{time.highest:>10.2f}{ratio:>24.2f}")


def main(argv: list[str] | None = None) -> int:
    """Run, print the tables, and the JSON document last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions, for tests (off)")
    quick = parser.parse_args(argv).quick
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    # Short measurements and many rounds: on a shared machine most of them are undisturbed, and the median is one such.
    rounds, num_documents = (5, 50) if quick else (500, 4000)

    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder, "data")
        write_data(prefix, num_documents=num_documents)
        contestants, num_bytes = sample_contestants(prefix)
        source, target = np.ones(num_bytes, np.uint8), np.empty(num_bytes, np.uint8)
        contestants["copy of the bytes that leave"] = lambda i: np.copyto(target, source)
        samples = timing.interleaved(contestants, rounds=rounds, calls=4)
    positions = timing.interleaved(position_contestants(), rounds=rounds, calls=8, divisors={"ours, C++ loop": BATCH})

    print_table("one sample of 4096 tokens", samples, "GPTDataset")
    print_table("614 of 4095 positions", positions, "ours, C++ loop")
    gpt, mine = samples["GPTDataset"].median, samples["MEAPGPTDataset"].median
    official = samples["GPTDataset + official masking"].median
    ratios = {
        "ours_over_gpt": mine / gpt,
        "official_over_gpt": official / gpt,
        "official_over_ours": official / mine,
        "official_choice_over_ours": positions["official random.sample"].median / positions["ours, C++ loop"].median,
    }
    print(f"\nours adds {mine - gpt:.1f} us to GPTDataset, the official masking {official - gpt:.1f} us")
    print(f"bytes that leave one sample: {num_bytes:,}\n")
    document = {
        "benchmark": "sample",
        "quick": quick,
        "sequence_length": SEQUENCE_LENGTH,
        "num_masked": NUM_MASKED,
        "threads": 1,
        "rounds": rounds,
        "bytes_per_sample": num_bytes,
        "sample_us": {name: round(time.median, 3) for name, time in samples.items()},
        "positions_us": {name: round(time.median, 3) for name, time in positions.items()},
        "ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "environment": timing.environment("torch", "numpy", "megatron-core"),
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
