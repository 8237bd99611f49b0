"""What a sample costs: Megatron's GPTDataset, the official masking on top of it, NumPy, torch, and ours.

Four questions, each a table:

1. Whole samples: `dataset[i]` at sequence length 4096, documents of about 600 tokens, data in the page cache. The
   alternatives get the sample from GPTDataset and do what is needed and no more: choose positions, copy the tokens
   (they share memory with the labels), write the mask id. A micro-batch is what torch's DataLoader makes of 8 indices:
   8 samples and its collate function, per sample.
2. The same at 65,536.
3. Samples per second with one and with two threads, each reading micro-batches.
4. The choice of 614 of 4095 positions alone.

The floor beside them is copying the bytes that leave: all fields of a sample, those that are written again (Megatron
and we hand out one `position_ids` for all samples), and all fields of a micro-batch, per sample.

One process, one thread but for table 3. Contestants take turns; figures are medians over rounds. Each is CPU time of
its thread, so that other programs on the machine count only by what they do to the caches; table 3 is by the clock.
The last line is one JSON document.

    python benchmarks/sample.py            about a minute
    python benchmarks/sample.py --quick    for tests: the figures mean nothing
"""

import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and NumPy are loaded

import numpy as np
import random_data
import timing

SEQUENCE_LENGTH = 4096  # input tokens, the paper's
LONG = 65_536
RATIO = 0.15
NUM_MASKED = 614  # floor(4096 * 0.15)
MASK_ID = 32_000
DOCUMENT_TOKENS = 600  # mean length of a document
BATCH = 8  # samples per micro-batch
GPT_BATCH = f"GPTDataset, micro-batch of {BATCH}"
OUR_BATCH = f"MEAPGPTDataset, micro-batch of {BATCH}"
COPY = {"all": "copy of all bytes that leave", "new": "copy of the bytes written again"}
COPY_BATCH = f"copy of all bytes of a batch of {BATCH}"
FAMILY: dict[str, dict[str, object]] = {
    "masked and marked": {},
    "random tokens": {"corruption": "random"},
    "mix of 80, 10 and 10 %": {"corruption": "mix"},
    "ratio drawn from 0.1 to 0.2": {"ratio": "0.1:0.2"},
    "spans of 5": {"strategy": "span", "span_length": 5},
    "first 16 positions left alone": {"skip_first": 16},
    "short documents left alone": {"min_document_tokens": 400},
}
"""The family of masked inputs (docs/masked_inputs.md), each with marked changes, as training reads samples."""
DIVISORS = {GPT_BATCH: BATCH, OUR_BATCH: BATCH, COPY_BATCH: BATCH}


def write_data(prefix: Path, *, num_documents: int) -> None:
    """Write documents of about 600 random ids."""
    lengths = {"shortest": DOCUMENT_TOKENS // 2, "longest": 3 * DOCUMENT_TOKENS // 2}
    random_data.write_data(prefix, num_documents=num_documents, mask_id=MASK_ID, **lengths)


def build(
    prefix: Path,
    *,
    masked: bool,
    ours: bool = True,
    sequence_length: int = SEQUENCE_LENGTH,
    mark: bool = False,
    **settings: object,
):
    """Return the train split: MEAPGPTDataset, masked (`settings` beside the ratio) or not, or Megatron's GPTDataset."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    from meap_megatron.config import MaskConfig
    from meap_megatron.datasets.gpt import MEAPGPTDataset, MEAPGPTDatasetConfig
    from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
    from meap_megatron.indexed.sidecar import read_sidecar
    from meap_megatron.masking.corruption import OrdinaryIds

    dataset = {
        "random_seed": 1234,
        "sequence_length": sequence_length,
        "blend": ([str(prefix)], None),
        "split": "1,0,0",
        "path_to_cache": str(prefix.parent / "cache"),
        "tokenizer": DatasetTokenizer(read_sidecar(prefix).tokenizer),
        "reset_position_ids": False,
        "reset_attention_mask": False,
        "eod_mask_loss": False,
        "create_attention_mask": False,
    }
    if ours:
        ordinary = OrdinaryIds.without(MASK_ID, range(3))
        fields = {"mask_id": MASK_ID, "ratio": RATIO, "ordinary": ordinary} | settings
        config = MEAPGPTDatasetConfig(**dataset, meap=MaskConfig(**fields) if masked else None, mark_changes=mark)
        return BlendedMegatronDatasetBuilder(MEAPGPTDataset, [None] * 3, lambda: True, config).build()[0]
    config = GPTDatasetConfig(**dataset)
    return BlendedMegatronDatasetBuilder(GPTDataset, [None] * 3, lambda: True, config).build()[0]


def sample_contestants(prefix: Path, *, length: int) -> tuple[dict[str, Callable[[int], object]], dict[str, int]]:
    """Return the whole-sample contestants, and the bytes of all fields and of those written again."""
    import torch
    from torch.utils.data import default_collate

    plain = build(prefix, masked=False, ours=False, sequence_length=length)
    ours, unmasked = (build(prefix, masked=masked, sequence_length=length) for masked in (True, False))
    num_samples = len(plain)
    rng = np.random.default_rng(1)
    num_masked = int(length * RATIO)

    def with_positions(choose: Callable[[int], object]) -> Callable[[int], object]:
        def contestant(i: int):
            sample = plain[i % num_samples]
            tokens = sample["tokens"].clone()
            tokens[choose(i)] = MASK_ID
            sample["tokens"] = tokens
            return sample

        return contestant

    def indices(i: int) -> list[int]:
        return [(BATCH * i + row) % num_samples for row in range(BATCH)]

    contestants = {
        "GPTDataset": lambda i: plain[i % num_samples],
        "MEAPGPTDataset": lambda i: ours[i % num_samples],
        "MEAPGPTDataset, nothing masked": lambda i: unmasked[i % num_samples],
        GPT_BATCH: lambda i: default_collate([plain[index] for index in indices(i)]),
        OUR_BATCH: lambda i: default_collate(ours.__getitems__(indices(i))),
    }
    if length == SEQUENCE_LENGTH:
        contestants |= {
            "GPTDataset + official masking": with_positions(official_choice),
            "GPTDataset + numpy choice": with_positions(
                lambda i: torch.from_numpy(rng.choice(length - 1, num_masked, replace=False))
            ),
            "GPTDataset + torch randperm": with_positions(lambda i: torch.randperm(length - 1)[:num_masked]),
        }
        for what, settings in FAMILY.items():
            one = build(prefix, masked=True, sequence_length=length, mark=True, **settings)
            contestants[f"MEAPGPTDataset, {what}"] = lambda i, one=one: one[i % num_samples]
    for name, call in contestants.items():
        if name.removeprefix("MEAPGPTDataset, ") in FAMILY:
            continue  # tests/masking/test_family.py says what they hold
        made = call(0)["tokens"]
        masked = int((made == MASK_ID).sum())
        expected = 0 if name in ("GPTDataset", "MEAPGPTDataset, nothing masked", GPT_BATCH) else num_masked
        assert masked == expected * (made.numel() // length), (name, masked)
    fields = plain[0]
    num_bytes = {"all": sum(field.nbytes for field in fields.values())}
    num_bytes["new"] = num_bytes["all"] - fields["position_ids"].nbytes
    for which, size in num_bytes.items():
        contestants[COPY[which]] = copying(size)
    contestants[COPY_BATCH] = copying(BATCH * num_bytes["all"])
    return contestants, num_bytes


def copying(num_bytes: int) -> Callable[[int], object]:
    """Return a contestant that copies so many bytes."""
    source, target = np.ones(num_bytes, np.uint8), np.empty(num_bytes, np.uint8)
    return lambda i: np.copyto(target, source)


def samples_per_second(prefix: Path, *, seconds: float, rounds: int) -> dict[str, dict[int, float]]:
    """Return samples per second by the clock, of one and of two threads that read micro-batches; medians of rounds."""
    from torch.utils.data import default_collate

    plain, ours = (build(prefix, masked=is_ours, ours=is_ours) for is_ours in (False, True))
    num_samples = len(plain)

    def rate(make: Callable[[list[int]], object], num_threads: int) -> float:
        made = [0] * num_threads
        until = time.perf_counter() + seconds

        def work(thread: int) -> None:
            while time.perf_counter() < until:
                first = (thread * num_samples) // num_threads + made[thread]
                make([(first + row) % num_samples for row in range(BATCH)])
                made[thread] += BATCH

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(num_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(made) / seconds

    makers = {
        "GPTDataset": lambda indices: default_collate([plain[index] for index in indices]),
        "MEAPGPTDataset": lambda indices: default_collate(ours.__getitems__(indices)),
        # The C++ alone: what is left is the interpreter, which only one thread at a time can use.
        "MEAPGPTDataset, 64 samples per call": lambda indices: ours.__getitems__(indices * (64 // BATCH)),
    }
    found: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            for num_threads in (1, 2):
                found[name][num_threads].append(rate(make, num_threads))
    factor = {"MEAPGPTDataset, 64 samples per call": 64 // BATCH}
    return {
        name: {n: statistics.median(rates) * factor.get(name, 1) for n, rates in by_threads.items()}
        for name, by_threads in found.items()
    }


def official_choice(i: int) -> list[int]:
    """Choose as the official pre-training code does at step i."""
    random.seed(50 + i % 51)
    return random.sample(range(0, SEQUENCE_LENGTH - 1), NUM_MASKED)


def position_contestants() -> dict[str, Callable[[int], object]]:
    """Return the contestants that only choose positions."""
    import torch

    from meap_megatron.masking import mask_positions

    rng = np.random.default_rng(1)
    ours = {"seed": 1234, "dataset_key": 5678, "length": SEQUENCE_LENGTH, "ratio": RATIO}
    return {
        "ours": lambda i: mask_positions(**ours, sample_index=i),
        "official random.sample": official_choice,
        "numpy choice": lambda i: rng.choice(SEQUENCE_LENGTH - 1, NUM_MASKED, replace=False),
        "torch randperm": lambda i: torch.randperm(SEQUENCE_LENGTH - 1)[:NUM_MASKED],
    }


def print_timings(title: str, timings: dict[str, timing.Timing], base: str) -> None:
    """Print one table, times in microseconds per sample and as a multiple of the base."""
    rows = (
        (
            name,
            *(f"{us:.2f}" for us in (found.median, found.lowest, found.highest, found.median / timings[base].median)),
        )
        for name, found in timings.items()
    )
    timing.print_table((title, "median us", "lowest", "highest", f"x {base}"), *rows)


def target_ratios(timings: dict[str, timing.Timing]) -> dict[str, float]:
    """Return the ratios that have a target: above 12 over GPTDataset; at most 4, in a micro-batch 2, of copying."""
    ours, batch = timings["MEAPGPTDataset"].median, timings[OUR_BATCH].median
    return {
        "gpt_over_ours": timings["GPTDataset"].median / ours,
        "gpt_over_ours_unmasked": timings["GPTDataset"].median / timings["MEAPGPTDataset, nothing masked"].median,
        "gpt_over_our_batch": timings["GPTDataset"].median / batch,
        "gpt_batch_over_our_batch": timings[GPT_BATCH].median / batch,
        "ours_over_copy_all": ours / timings[COPY["all"]].median,
        "ours_over_copy_new": ours / timings[COPY["new"]].median,
        "our_batch_over_copy_batch": batch / timings[COPY_BATCH].median,
    }


def main() -> int:
    """Run, print the tables, and the JSON document last."""
    quick = timing.arguments(__doc__).parse_args().quick
    timing.use_one_thread()
    # Short measurements and many rounds: on a shared machine most of them are undisturbed, and the median is one such.
    rounds, num_documents = (5, 500) if quick else (150, 4000)

    samples: dict[int, dict[str, timing.Timing]] = {}
    num_bytes: dict[int, dict[str, int]] = {}
    for length in (SEQUENCE_LENGTH, LONG):
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder, "data")
            write_data(prefix, num_documents=num_documents)
            contestants, num_bytes[length] = sample_contestants(prefix, length=length)
            # Enough calls in a row that a contestant finds its own caches, not those of the one before.
            calls = 24 if length == SEQUENCE_LENGTH else 4
            samples[length] = timing.interleaved(
                contestants,
                rounds=rounds if length == SEQUENCE_LENGTH else max(5, rounds // 10),
                calls=calls,
                divisors=DIVISORS,
                clock=time.thread_time,
            )
            if length == SEQUENCE_LENGTH:
                rates = samples_per_second(prefix, seconds=0.02 if quick else 0.25, rounds=2 if quick else 9)
    positions = timing.interleaved(position_contestants(), rounds=rounds, calls=8)

    for length, timings in samples.items():
        print_timings(f"one sample of {length:,} tokens", timings, "GPTDataset")
    timing.print_table(
        ("samples per second", "1 thread", "2 threads", "ratio"),
        *((name, f"{rate[1]:,.0f}", f"{rate[2]:,.0f}", f"{rate[2] / rate[1]:.2f}") for name, rate in rates.items()),
    )
    print_timings("614 of 4095 positions", positions, "ours")
    ratios = {
        f"{name}_{length}": ratio for length in samples for name, ratio in target_ratios(samples[length]).items()
    }
    short = samples[SEQUENCE_LENGTH]
    ratios |= {
        "official_over_gpt": short["GPTDataset + official masking"].median / short["GPTDataset"].median,
        "official_over_ours": short["GPTDataset + official masking"].median / short["MEAPGPTDataset"].median,
        "official_choice_over_ours": positions["official random.sample"].median / positions["ours"].median,
        "slowest_of_family_over_masked": max(short[f"MEAPGPTDataset, {what}"].median for what in FAMILY)
        / short["MEAPGPTDataset, masked and marked"].median,
        "two_threads_over_one": rates["MEAPGPTDataset"][2] / rates["MEAPGPTDataset"][1],
    }
    return timing.publish(
        "sample",
        quick=quick,
        ratios=ratios,
        packages=("torch", "numpy", "megatron-core"),
        lower_is_better=[name for name in ratios if "_over_copy_" in name],
        # Megatron against the official code, and what other programs leave of the second core.
        not_judged=["official_over_gpt", "two_threads_over_one"],
        sequence_length=SEQUENCE_LENGTH,
        num_masked=NUM_MASKED,
        threads=1,
        rounds=rounds,
        bytes_per_sample=num_bytes,
        sample_us={name: round(found.median, 3) for name, found in short.items()},
        long_sample_us={name: round(found.median, 3) for name, found in samples[LONG].items()},
        samples_per_second=rates,
        positions_us={name: round(found.median, 3) for name, found in positions.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
