"""The data of all data-parallel ranks: is every sample read once, in the right step, and as one process would read it?"""

import zlib
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from meap_megatron.errors import RunError, UserError
from meap_megatron.layer_pattern import CUT
from meap_megatron.rehearsal import fakes, in_fork, rank_data
from meap_megatron.rehearsal.job import WRITERS, RehearsedJob

MOST_TOKENS = 400_000_000
"""Tokens that are read without being asked for more."""
MOST_TURNS = 100_000_000
"""Turns of the loop in Megatron's sampler: each rank counts through the samples of all."""

ONE_PROCESS: dict[str, Any] = dict.fromkeys(
    (
        *WRITERS,
        *fakes.ENGINE_ONLY,
        *"sequence_parallel num_layers_per_virtual_pipeline_stage num_virtual_stages_per_pipeline_rank".split(),
        *"pipeline_model_parallel_layout decoder_first_pipeline_num_layers decoder_last_pipeline_num_layers".split(),
        *"account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split".split(),
        *"expert_model_parallel_size expert_tensor_parallel_size".split(),
    )
) | dict.fromkeys(("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"), 1)
"""The settings in which a run of one process differs."""


def rehearse(job: RehearsedJob, *, samples: int | None, log: Path | None, screen: TextIO) -> dict[str, Any]:
    """Read the samples of every data-parallel rank, and the same samples as one process, and compare.

    Args:
        samples: how many of the first samples; None: as many as a minute or two allows, at most one pass of the run.
        screen: is told about a sample index that had to be built.

    Raises:
        UserError: the data does not fit, or is read in an order of its own.
        RunError: a sample is missing, read twice, read in another step, or read differently.
    """
    if job.settings.get("dataloader_type") not in (None, "single"):
        raise UserError("dataloader_type: only the order of 'single', Megatron's default, is the same for all layouts")
    world = job.layout.world
    here = partial(in_fork.in_fork, rank=0, log=log)
    job_argv = fakes.argv_of(job)
    uncut = {name: value.replace(CUT, "") for name in ("hybrid_layer_pattern",) if (value := job.settings.get(name))}
    one_argv = fakes.argv_of(job.with_settings(ONE_PROCESS | uncut))
    found: dict[str, Any] = here(lambda: of_job(job_argv, samples=samples, screen=screen), world=world)
    alone: list[int] = here(lambda: of_one_process(one_argv, count=found["samples"], screen=screen), world=1)
    compare(found.pop("digests"), alone)
    return {"world": world, **found, "equal_to_one_process": len(alone)}


def of_job(argv: list[str], *, samples: int | None, screen: TextIO) -> dict[str, Any]:
    """Read what every data-parallel rank reads, in its order.

    Returns:
        data_parallel, steps, steps_of_run, samples, masked (fraction of the inputs), sources, epochs_checked, digests
    """
    from megatron.training.datasets.data_samplers import MegatronPretrainingSampler

    args, train, index = open_train(argv, screen=screen)
    ranks, batch = args.data_parallel_size, args.global_batch_size
    steps_of_run = len(train) // batch
    wanted = samples or min(MOST_TOKENS // args.seq_length, MOST_TURNS // ranks)
    steps = max(1, min(steps_of_run, wanted // batch))
    times = np.zeros(steps * batch, dtype=np.int64)
    digests = np.zeros(steps * batch, dtype=np.uint32)
    masked = 0
    for rank in range(ranks):
        sampler = MegatronPretrainingSampler(steps * batch, 0, args.micro_batch_size, rank, ranks)
        for turn, numbers in enumerate(sampler):
            step = turn // (batch // (args.micro_batch_size * ranks))
            for number in numbers:
                if number // batch != step:
                    raise RunError(
                        f"data-parallel rank {rank} reads sample {number} in step {step}, not {number // batch}"
                    )
                times[number] += 1
                digests[number], hidden = digest(train[number])
                masked += hidden
    read_once(times)
    return {
        "data_parallel": ranks,
        "steps": steps,
        "steps_of_run": steps_of_run,
        "samples": steps * batch,
        "masked": masked / (steps * batch * args.seq_length),
        "sources": index["sources"] if index else [],
        "epochs_checked": each_token_once(train),
        "digests": digests.tolist(),
    }


def of_one_process(argv: list[str], *, count: int, screen: TextIO) -> list[int]:
    """Return the digests of the first samples as one process reads them, one after the other."""
    _, train, _ = open_train(argv, screen=screen)
    return [digest(train[number])[0] for number in range(count)]


def open_train(argv: list[str], *, screen: TextIO) -> tuple[Any, Any, dict[str, Any] | None]:
    """Return Megatron's arguments, the training set as its builder makes it, and its index."""
    from meap_megatron.datasets.provider import build_datasets
    from meap_megatron.training.dataset_settings import index_request
    from meap_megatron.training.parsing import settle

    args, sidecars = settle(argv)
    _, index = rank_data.prepare(args, sidecars, screen)
    wanted = index_request(args, sidecars)
    if index is not None:
        wanted.config.path_to_cache = index["path"]
    return args, build_datasets(wanted.config, sizes=wanted.sizes)[0], index


def digest(sample: dict[str, Any]) -> tuple[int, int]:
    """Return a CRC-32 over all fields of a sample, and the number of changed inputs."""
    from meap_megatron.training.batch import CHANGED_INPUT, decode

    value = 0
    for name in sorted(sample):
        value = zlib.crc32(np.ascontiguousarray(sample[name].numpy()).data, value)
    return value, int(((decode(sample["loss_mask"])[1] & CHANGED_INPUT) > 0).sum())


def read_once(times: NDArray[np.int64]) -> None:
    """Refuse samples that are not read exactly once.

    Args:
        times: int64[samples], how often each is read.

    Raises:
        RunError: naming the first.
    """
    wrong = np.flatnonzero(times != 1)
    if len(wrong):
        raise RunError(
            f"sample {wrong[0]} is read {times[wrong[0]]} times over all data-parallel ranks, and {len(wrong) - 1} others "
            "are not read once either"
        )


def compare(job: list[int], alone: list[int]) -> None:
    """Compare the digests of the ranks with those of one process.

    Raises:
        RunError: naming the first sample that differs.
    """
    wrong = [number for number, (a, b) in enumerate(zip(job, alone, strict=True)) if a != b]
    if wrong:
        raise RunError(
            f"sample {wrong[0]} and {len(wrong) - 1} others are not what one process reads (tokens, masks, labels or loss)"
        )


def each_token_once(train: Any) -> float | None:
    """Check the index of the whole run: every token of every document once in each epoch.

    Args:
        train: Megatron's dataset, or its blend of several.

    Returns:
        The epochs of the run, over all sources; None for made-up data and fine-tuning rows of no whole epoch.

    Raises:
        RunError: the index leaves something out or has it twice.
    """
    from megatron.core.datasets.blended_dataset import BlendedDataset

    from meap_megatron.datasets.sft.dataset import MEAPSFTDataset

    if isinstance(train, BlendedDataset):
        for number, part in enumerate(train.datasets):
            drawn = np.asarray(train.dataset_sample_index)[np.asarray(train.dataset_index) == number]
            if len(np.unique(drawn)) != len(drawn):
                raise RunError(f"the blend takes a sample of {part.dataset_path} twice")
        return sum(each_token_once(part) or 0.0 for part in train.datasets)
    if isinstance(train, MEAPSFTDataset):
        return conversations_once(train)
    return documents_once(train)


def documents_once(train: Any) -> float:
    """Check a `GPTDataset`; return the epochs that its samples stretch over.

    Sample k begins at token k x length of the documents laid end to end, epoch after epoch; the shuffle is a permutation.
    """
    order, length = np.asarray(train.document_index), train.config.sequence_length
    lengths = train.dataset.sequence_lengths
    often = np.bincount(order, minlength=int(train.indices.max()) + 1)[train.indices]
    if often.min() != often.max():
        raise RunError(
            f"{train.dataset_path}: some documents occur {often.min()} times in the index, others {often.max()}"
        )
    begins = np.concatenate([[0], np.cumsum(lengths[order], dtype=np.int64)])
    samples = np.asarray(train.sample_index)
    places = begins[samples[:, 0]] + samples[:, 1]
    if not np.array_equal(places, np.arange(len(samples), dtype=np.int64) * length):
        raise RunError(
            f"{train.dataset_path}: the samples of the index do not follow each other without gap or overlap"
        )
    shuffle = np.asarray(train.shuffle_index)
    if not np.array_equal(np.sort(shuffle), np.arange(len(samples) - 1)):
        raise RunError(f"{train.dataset_path}: the shuffle of the index is not a permutation of the samples")
    return float((len(samples) - 1) * length / lengths[train.indices].sum(dtype=np.int64))


def conversations_once(train: Any) -> float | None:
    """Check fine-tuning rows; return the whole epochs that were checked, None if there is none.

    In every whole epoch each segment (a conversation, or its masked copy) is in exactly one row.
    """
    index, whole = train.index, 0
    if not np.array_equal(np.sort(index.order), np.arange(len(index.order))):
        raise RunError(f"{train.dataset_path}: the order of the rows is not a permutation")
    first: NDArray[np.uint32] | None = None
    for begin, end in zip(index.epochs[:-1], index.epochs[1:], strict=True):
        items = np.sort(np.concatenate([index.row(row)[0] for row in range(int(begin), int(end))]))
        if len(np.unique(items)) != len(items):
            raise RunError(f"{train.dataset_path}: epoch {whole + 1} holds a segment twice")
        if first is not None and len(items) == len(first) and not np.array_equal(items, first):
            raise RunError(f"{train.dataset_path}: epoch {whole + 1} holds other segments than the first")
        first = items if first is None else first
        whole += len(items) == len(first)
    return float(whole) or None
