"""Rank program: losses and gradients of packed rows against their segments one by one, through Megatron's own schedules.

    python -m tests.support.packed_rows PREFIX OUT <flags of the trainer>

Every rank builds the model of the flags (any tensor and pipeline parallel size) and runs forward and backward on one packed
row of PREFIX, on the same segments as rows of their own, and on the packed row with one segment changed. The last rank
writes OUT (JSON).
"""

import dataclasses
import json
import sys
from functools import partial
from typing import Any

from meap_megatron.launch import data_flags, runtime
from meap_megatron.training import platform
from meap_megatron.training.parsing import parse


def alone(row: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """Return a row that holds one segment of a packed row, the rest being padding in a segment of its own."""
    import torch

    size = row["tokens"].numel()
    single = {name: torch.zeros_like(row[name]) for name in ("tokens", "labels", "loss_mask", "position_ids")}
    for name, values in single.items():
        values[: end - start] = row[name][start:end]
    single["cu_seqlens"] = torch.full_like(row["cu_seqlens"], size)
    single["cu_seqlens"][:2] = torch.tensor([0, end - start])
    single["max_seqlen"] = torch.tensor(max(end - start, size - (end - start)), dtype=torch.int32)
    return single


def main(prefix: str, out: str, argv: list[str]) -> None:
    """Compute and write the comparison."""
    runtime.set_thread_policy()
    platform.prepare("cpu")
    # The rerun machine, which looks for NaN, only runs inside the trainer's loop.
    argv = [*argv, "--data-path", prefix, "--no-check-for-nan-in-loss-and-grad"]
    argv += data_flags.data_flags(argv)
    argv += platform.flags_for("cpu", argv)
    args = parse(argv)
    args.meap_is_sft = True

    import torch
    from megatron.core import mpu
    from megatron.core.models.gpt import GPTModel
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
    from megatron.training.initialize import initialize_megatron
    from megatron.training.models.gpt import GPTModelBuilder

    from meap_megatron.launch.data_sidecars import read_sidecars
    from meap_megatron.training.dataset_settings import sft_dataset_config
    from meap_megatron.training.model import model_config
    from meap_megatron.training.step import make_forward_step

    initialize_megatron(allow_no_cuda=True)
    sidecars = read_sidecars([prefix])
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.process_groups_config import ProcessGroupCollection

    from meap_megatron.datasets.sft.dataset import MEAPSFTDataset

    def segments(row: dict[str, Any]) -> list[tuple[int, int]]:
        bounds = sorted(set(row["cu_seqlens"].tolist()))
        return [(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if row["loss_mask"][a:b].any()]

    model_cfg = model_config(args, device="cpu")
    model: GPTModel = GPTModelBuilder(model_cfg).build_model(ProcessGroupCollection.use_mpu_process_groups())
    model_cfg.transformer.finalize_model_grads_func = None
    mask_id = sidecars[0].tokenizer.mask_id
    step = make_forward_step(args)
    last = mpu.is_pipeline_last_stage()

    def run(rows: list[dict[str, Any]]) -> tuple[list[Any], dict[str, Any]]:
        """Return per-token losses [rows][s] (last stage) and the gradients of this rank's parameters."""
        seen: list[Any] = []

        def forward(iterator: Any, model: Any, *rest: Any) -> Any:
            output, reduce = step(iterator, model)
            if last:
                seen.append(output.detach().reshape(-1).clone())
            return output, reduce

        model.zero_grad()
        batches = [torch.utils.data.default_collate([r]) for r in rows]
        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter(batches),
            model=model,
            num_microbatches=len(rows),
            seq_length=args.seq_length,
            micro_batch_size=1,
            forward_only=False,
        )
        return seen, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def worst(one: dict[str, Any], other: dict[str, Any]) -> float:
        """Return the largest difference of two sets of gradients, relative to the largest gradient, over all ranks."""
        scale = max(float(g.abs().max()) for g in one.values())
        value = torch.tensor(max(float((one[n] - other[n]).abs().max()) for n in one) / scale)
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return float(value)

    def compare(layout: str) -> dict[str, Any]:
        """Return the comparison for one layout."""
        config = sft_dataset_config(args, sidecars, path_to_cache=f"{out}.cache")
        config.sft = dataclasses.replace(config.sft, layout=layout)
        train = BlendedMegatronDatasetBuilder(MEAPSFTDataset, [40, 0, 0], lambda: True, config).build()[0]
        row = next(
            row
            for row in map(train.__getitem__, range(len(train)))
            if len(segments(row)) >= 3 and (layout == "ntp" or (row["tokens"] == mask_id).any())
        )
        trained = segments(row)
        packed_losses, packed_grads = run([row])
        singles = [alone(row, a, b) for a, b in trained]
        single_losses, single_grads = run(singles)
        result: dict[str, Any] = {"segments": len(trained), "masked": int((row["tokens"] == mask_id).sum())}
        result["grad_difference"] = worst(packed_grads, single_grads)

        changed = {name: value.clone() for name, value in row.items()}
        a, b = trained[1]
        changed["tokens"][a:b] = (changed["tokens"][a:b] + 1) % 64
        changed_losses, _ = run([changed])

        # The mean of micro-batch means, as the official code: (g1 / n1 + g2 / n2) / 2.
        counts = [float((r["loss_mask"] % 2).sum()) for r in singles[:2]]  # without the marks
        apart = [run([r])[1] for r in singles[:2]]
        expected = {n: (apart[0][n] / counts[0] + apart[1][n] / counts[1]) / 2 for n in apart[0]}
        model_cfg.transformer.calculate_per_token_loss = False
        result["microbatch_mean_difference"] = worst(expected, run(singles[:2])[1])
        model_cfg.transformer.calculate_per_token_loss = True

        if last and mpu.get_tensor_model_parallel_rank() == mpu.get_tensor_model_parallel_world_size() - 1:
            (whole,) = packed_losses
            differences = [
                float((whole[a:b] - single[: b - a])[row["loss_mask"][a:b] > 0].abs().max())
                for (a, b), single in zip(trained, single_losses, strict=True)
            ]
            result["loss_difference"] = max(differences)
            (moved,) = changed_losses
            outside = torch.ones_like(whole, dtype=torch.bool)
            outside[a:b] = False
            result["leak"] = float((moved - whole)[outside].abs().max())
            result["changed"] = float((moved - whole)[a:b].abs().max())
        return result

    model.train()
    results = {layout: compare(layout) for layout in ("separate", "concat", "ntp")}
    if last and mpu.get_tensor_model_parallel_rank() == mpu.get_tensor_model_parallel_world_size() - 1:
        with open(out, "w", encoding="utf-8") as stream:
            json.dump(results, stream)
    torch.distributed.barrier()


if __name__ == "__main__":
    partial(main, sys.argv[1], sys.argv[2])(sys.argv[3:])
