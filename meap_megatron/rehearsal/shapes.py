"""One rank of the job at its true sizes: arguments, groups, model, optimizer, data, checkpoint; no step is computed."""

import time
from typing import Any, TextIO

from meap_megatron.declared import picked
from meap_megatron.rehearsal import fakes, rank_checkpoint, rank_data, rank_model
from meap_megatron.rehearsal.job import RehearsedJob


def rehearse(job: RehearsedJob, *, screen: TextIO) -> dict[str, Any]:
    """Be the rank that the environment names, in a process of its own, and return what it holds, reads and writes.

    Args:
        screen: is told about a sample index that had to be built.

    Raises:
        UserError: what would stop the job, found by Megatron or by the run's own checks.
        RunError: the disk is full.
    """
    from meap_megatron.training.parsing import settle

    began = time.perf_counter()
    args, sidecars = settle(fakes.argv_of(job))
    provider, index = rank_data.prepare(args, sidecars, screen)
    parts, optimizer = rank_model.build(args)
    tensors = rank_checkpoint.sharded_tensors(parts)
    data = rank_data.read(args, provider, parts=len(parts), start=job.start)  # settles the number of steps too
    checkpoint, saving = job.start.checkpoint, picked(rank_checkpoint.SaveSettings, args)
    pattern = saving.hybrid_layer_pattern
    return {
        "rank": args.rank,
        "place": rank_model.place(),
        "model": rank_model.contents(parts),
        "parameters_of_model": rank_checkpoint.parameters_of_model(saving, tensors),
        "memory": rank_model.memory(parts, optimizer),
        "index": index,
        "data": data,
        "begins_with": {
            "step": job.start.step,
            "checkpoint": str(checkpoint) if checkpoint else None,
            "tensors_compared": rank_checkpoint.compare(checkpoint, tensors, pattern) if checkpoint else None,
        },
        "saves": rank_checkpoint.plan(saving, tensors, optimizer, step=job.start.step),
        "steps": args.train_iters,
        "seconds": round(time.perf_counter() - began, 2),
    }
