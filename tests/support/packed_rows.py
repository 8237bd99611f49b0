"""Losses and gradients of packed rows against their segments one by one, through Megatron's own schedules.

    python -m tests.support.packed_rows PREFIX OUT <flags of the trainer>

Every rank builds the model of the flags (any tensor and pipeline parallel size) and runs forward and backward on one packed
row of PREFIX, on the same segments as rows of their own, and on the packed row with one segment changed. The last rank
writes OUT (JSON). `make gpu-check` asks the same of a card.
"""

import dataclasses
import json
import sys
from typing import Any

from meap_megatron.declared import picked
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


def segments(row: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the segments of a row that train something."""
    bounds = sorted(set(row["cu_seqlens"].tolist()))
    return [(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if row["loss_mask"][a:b].any()]


def comparison(
    argv: list[str],
    *,
    prefix: str,
    cache: str,
    device: str = "cpu",
    modes: tuple[str, ...] = ("separate", "concat", "ntp"),
    means: bool = True,
) -> dict[str, Any]:
    """Build the model of the flags and compare one packed row of each copy mode.

    Args:
        argv: flags of the trainer.
        prefix: of fine-tuning data.
        cache: folder of the index.
        device: "cpu" or "cuda".
        modes: copy modes.
        means: compare the mean of micro-batch means, the official code's, too.

    Returns:
        Per mode `segments`; `masked` ids; `attention`: classes of the attention layers; `grad_difference` and
        `microbatch_mean_difference` relative to the largest gradient. Of the last stage's last rank also `loss_difference`
        in nats, and the largest change of a loss outside (`leak`) and inside (`changed`) the changed segment.
    """
    runtime.set_thread_policy()
    platform.prepare(device)
    # The rerun machine, which looks for NaN, only runs inside the trainer's loop.
    argv = [*argv, "--data-path", prefix, f"--meap-device={device}", "--no-check-for-nan-in-loss-and-grad"]
    argv += data_flags.data_flags(argv)
    argv += platform.flags_for(device, argv)
    args = parse(argv)
    if device == "cuda":
        platform.obey_jit_fuser(disabled=args.disable_jit_fuser)

    import torch
    from megatron.core import mpu
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.training.initialize import initialize_megatron
    from megatron.training.models.gpt import GPTModelBuilder

    from meap_megatron.datasets.sft.dataset import MEAPSFTDataset
    from meap_megatron.launch.data_sidecars import read_sidecars
    from meap_megatron.training.dataset_settings import dataset_config
    from meap_megatron.training.model import model_config
    from meap_megatron.training.step import StepSettings, make_forward_step

    initialize_megatron(allow_no_cuda=device == "cpu")
    sidecars = read_sidecars([prefix])
    model_cfg = model_config(args, device=device)
    model: Any = GPTModelBuilder(model_cfg).build_model(ProcessGroupCollection.use_mpu_process_groups())
    if device == "cuda":
        model = model.cuda()
    if args.bf16:
        model = model.bfloat16()
    model_cfg.transformer.finalize_model_grads_func = None
    mask_id = sidecars[0].tokenizer.mask_id
    step = make_forward_step(picked(StepSettings, args), is_sft=True, prefixes=[prefix])
    last = mpu.is_pipeline_last_stage()

    def run(rows: list[dict[str, Any]]) -> tuple[list[Any], dict[str, Any]]:
        """Return per-token losses [rows][s] (last stage) and the gradients of this rank's parameters, on the CPU."""
        seen: list[Any] = []

        def forward(iterator: Any, model: Any, *rest: Any) -> Any:
            output, reduce = step(iterator, model)
            if last:
                seen.append(output.detach().reshape(-1).float().cpu().clone())
            return output, reduce

        model.zero_grad()
        get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter([torch.utils.data.default_collate([row]) for row in rows]),
            model=model,
            num_microbatches=len(rows),
            seq_length=args.seq_length,
            micro_batch_size=1,
            forward_only=False,
        )
        gradients = {n: p.grad.float().cpu().clone() for n, p in model.named_parameters() if p.grad is not None}
        return seen, gradients

    def worst(one: dict[str, Any], other: dict[str, Any]) -> float:
        """Return the largest difference of two sets of gradients, relative to the largest gradient, over all ranks."""
        scale = max(float(g.abs().max()) for g in one.values())
        value = torch.tensor(max(float((one[n] - other[n]).abs().max()) for n in one) / scale)
        if torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
        return float(value)

    def compare(mode: str) -> dict[str, Any]:
        config = dataset_config(args, sidecars)
        config.path_to_cache = cache
        config.sft = dataclasses.replace(config.sft, layout=mode)
        train = BlendedMegatronDatasetBuilder(MEAPSFTDataset, [40, 0, 0], lambda: True, config).build()[0]
        rows = [train[number] for number in range(len(train))]
        row = max(
            (row for row in rows if mode == "ntp" or (row["tokens"] == mask_id).any()), key=lambda r: len(segments(r))
        )
        trained = segments(row)
        if len(trained) < 2:
            raise RuntimeError(f"no row of {prefix} has two conversations; row length {args.seq_length} is too short")
        packed_losses, packed_grads = run([row])
        singles = [alone(row, a, b) for a, b in trained]
        single_losses, single_grads = run(singles)
        found: dict[str, Any] = {"segments": len(trained), "masked": int((row["tokens"] == mask_id).sum())}
        kinds = {type(one).__name__ for one in model.modules()}
        found["attention"] = " ".join(sorted(kind for kind in kinds if "Attention" in kind))
        found["grad_difference"] = worst(packed_grads, single_grads)

        changed = {name: value.clone() for name, value in row.items()}
        a, b = trained[1]
        changed["tokens"][a:b] = (changed["tokens"][a:b] + 1) % 64
        changed_losses, _ = run([changed])
        if means:
            # The mean of micro-batch means, as the official code: (g1 / n1 + g2 / n2) / 2.
            counts = [float((r["loss_mask"] % 2).sum()) for r in singles[:2]]  # without the marks
            apart = [run([r])[1] for r in singles[:2]]
            expected = {n: (apart[0][n] / counts[0] + apart[1][n] / counts[1]) / 2 for n in apart[0]}
            model_cfg.transformer.calculate_per_token_loss = False
            found["microbatch_mean_difference"] = worst(expected, run(singles[:2])[1])
            model_cfg.transformer.calculate_per_token_loss = True
        if last:
            (whole,), (moved,) = packed_losses, changed_losses
            differences = (
                (whole[a:b] - single[: b - a])[row["loss_mask"][a:b] > 0].abs().max()
                for (a, b), single in zip(trained, single_losses, strict=True)
            )
            found["loss_difference"] = float(max(differences))
            # What a kernel leaves of positions that are not trained is no loss.
            outside = row["loss_mask"] > 0 if device == "cuda" else torch.ones_like(whole, dtype=torch.bool)
            outside[a:b] = False
            found["leak"] = float((moved - whole)[outside].abs().max())
            found["changed"] = float((moved - whole)[a:b].abs().max())
        return found

    model.train()
    return {mode: compare(mode) for mode in modes}


def main(prefix: str, out: str, argv: list[str]) -> None:
    """Write the comparison of the last rank."""
    found = comparison(argv, prefix=prefix, cache=f"{out}.cache")
    import torch

    if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
        with open(out, "w", encoding="utf-8") as stream:
            json.dump(found, stream)
    torch.distributed.barrier()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
