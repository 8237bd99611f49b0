"""Check d: a packed row equals its conversations one by one, and no segment sees another."""

from pathlib import Path
from typing import Any

from benchmarks.gpu import data, process
from benchmarks.gpu.session import Session, read_json, tail, write_json
from benchmarks.gpu.trainer import NO_TF32

MODEL = (
    "--num-layers 2 --num-attention-heads 4 --group-query-attention --num-query-groups 2 --swiglu --disable-bias-linear "
    "--normalization RMSNorm --position-embedding-type rope --disable-jit-fuser --untie-embeddings-and-output-weights "
    "--micro-batch-size 1 --global-batch-size 8 --train-iters 1 --lr 1e-3 --hidden-dropout 0 --attention-dropout 0 "
    "--eval-iters 0 --make-vocab-size-divisible-by 128 --meap-mask-ratio 0.1 --meap-sft --split 98,2,0 "
    "--no-check-for-nan-in-loss-and-grad --no-gradient-accumulation-fusion"
).split()
"""The model is used as it is, outside of what holds the buffer that fused gradients are added to."""
TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}
"""Of the loss of a token, in nats."""
GRADIENT_TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
"""Relative to the largest gradient."""


def run(session: Session) -> None:
    """Compare in float32 and, on a GPU, in bfloat16, with and without Transformer Engine."""
    layers = ["torch only", "Transformer Engine"] if session.machine().get("engine") == "loads" else ["torch only"]
    cells = [(layer, number) for layer in layers for number in (("fp32", "bf16") if session.on_gpu else ("fp32",))]
    started = {}
    for layer, number in cells:
        flags = ["--bf16"] if number == "bf16" else []
        environ = NO_TF32 if number == "fp32" else {}
        environ = environ | process.TORCH_ALONE if layer == "torch only" and session.on_gpu else environ
        report = session.work / f"{layer} {number}.json"
        started[layer, number] = (
            report,
            process.start(
                compare,
                session.device,
                str(data.conversations(session)),
                str(report),
                [*sizes(session), *flags],
                device=session.device,
                log=report.with_suffix(".log"),
                environ=environ,
                fresh=session.on_gpu and bool(environ),  # see trainer.train
            ),
        )
    failures = []
    for (layer, number), (report, one) in started.items():
        status, found = process.wait(one, 120), read_json(report)
        name = f"{number}, {layer}" if session.on_gpu else number
        if status != 0 or found is None:
            failures.append(f"{name} (status {status})\n{tail(report.with_suffix('.log'))}")
            continue
        session.add(f"{name}: attention", found["attention"])
        session.add(f"{name}: leak between segments", found["leak"], "nats", equals=0.0)
        session.add(f"{name}: the changed segment moves", found["changed"] > 0, equals=True)
        session.add(f"{name}: losses", found["loss_difference"], "nats", at_most=TOLERANCES[number])
        gradients = GRADIENT_TOLERANCES[number]
        session.add(f"{name}: gradients", found["grad_difference"], "of the largest", at_most=gradients)
    if failures:
        raise RuntimeError("\n\n".join(failures))


def sizes(session: Session) -> list[str]:
    """Return the sizes of model and row."""
    hidden, ffn = (64, 128) if session.quick else (256, 512)
    return [
        f"--hidden-size={hidden}", f"--ffn-hidden-size={ffn}", f"--seq-length={data.ROW}",
        f"--max-position-embeddings={data.ROW}",
    ]  # fmt: skip


def compare(device: str, prefix: str, report: str, flags: list[str]) -> None:
    """Write, as JSON, the differences of losses and gradients, and what a changed segment moves elsewhere."""
    found = differences(device, prefix, flags, cache=f"{report}.cache")
    write_json(Path(report), found)


def differences(device: str, prefix: str, flags: list[str], *, cache: str) -> dict[str, Any]:
    """Build the model of the flags and compare one packed row with its segments, and with itself after a change.

    Args:
        device: "cpu" or "cuda".
        prefix: of fine-tuning data.
        flags: Megatron's, besides `MODEL`.
        cache: folder of the index.

    Returns:
        `attention`: classes of the attention layers; `loss_difference` in nats; `grad_difference` relative to the
        largest gradient; `leak` and `changed`: the largest change of a loss outside and inside the changed segment.
    """
    import os

    from meap_megatron.launch import data_flags, runtime
    from meap_megatron.launch.data_sidecars import read_sidecars
    from meap_megatron.training import platform
    from meap_megatron.training.parsing import parse

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(runtime.free_port()))
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    runtime.set_thread_policy()
    platform.prepare(device)
    argv = [*MODEL, *flags, "--data-path", prefix, f"--meap-device={device}"]
    argv += data_flags.data_flags(argv)
    argv += platform.flags_for(device, argv)
    args = parse(argv)
    args.meap_is_sft = True
    if device == "cuda":
        platform.obey_jit_fuser(disabled=args.disable_jit_fuser)

    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.training.initialize import initialize_megatron
    from megatron.training.models.gpt import GPTModelBuilder

    from meap_megatron.datasets.sft.dataset import MEAPSFTDataset
    from meap_megatron.training.dataset_settings import sft_dataset_config
    from meap_megatron.training.model import model_config
    from meap_megatron.training.step import make_forward_step
    from tests.support.packed_rows import alone

    initialize_megatron(allow_no_cuda=device == "cpu")
    sidecars = read_sidecars([prefix])
    config = model_config(args, device=device)
    model = GPTModelBuilder(config).build_model(ProcessGroupCollection.use_mpu_process_groups())
    if device == "cuda":
        model = model.cuda()
    if args.bf16:
        model = model.bfloat16()
    config.transformer.finalize_model_grads_func = None
    mask_id = sidecars[0].tokenizer.mask_id
    step = make_forward_step(args)

    def through(rows: list[dict[str, Any]]) -> tuple[list[Any], dict[str, Any]]:
        """Return the losses [s] of every row and the gradients of all parameters, on the CPU."""
        seen = []

        def forward(iterator: Any, model: Any, *rest: Any) -> Any:
            output, reduce = step(iterator, model)
            seen.append(output.detach().reshape(-1).float().cpu())
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
        return seen, {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}

    def segments(row: dict[str, Any]) -> list[tuple[int, int]]:
        bounds = sorted(set(row["cu_seqlens"].tolist()))
        return [(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True) if row["loss_mask"][a:b].any()]

    config_of_data = sft_dataset_config(args, sidecars, path_to_cache=cache)
    train = BlendedMegatronDatasetBuilder(MEAPSFTDataset, [40, 0, 0], lambda: True, config_of_data).build()[0]
    rows = [row for row in map(train.__getitem__, range(len(train))) if (row["tokens"] == mask_id).any()]
    row = max(rows, key=lambda row: len(segments(row)))
    trained = segments(row)
    if len(trained) < 2:
        raise RuntimeError(f"no row of {prefix} holds two conversations; row length {args.seq_length} is too short")
    model.train()
    (whole,), packed = through([row])
    singles, apart = through([alone(row, a, b) for a, b in trained])
    scale = max(float(gradient.abs().max()) for gradient in packed.values())
    changed = {name: value.clone() for name, value in row.items()}
    a, b = trained[1]
    changed["tokens"][a:b] = (changed["tokens"][a:b] + 1) % 64
    (moved,), _ = through([changed])
    outside = row["loss_mask"] > 0
    outside[a:b] = False
    return {
        "segments": len(trained),
        "attention": " ".join(
            sorted({type(one).__name__ for one in model.modules() if "Attention" in type(one).__name__})
        ),
        "loss_difference": max(
            float((whole[x:y] - single[: y - x])[row["loss_mask"][x:y] > 0].abs().max())
            for (x, y), single in zip(trained, singles, strict=True)
        ),
        "grad_difference": max(float((packed[name] - apart[name]).abs().max()) for name in packed) / scale,
        "leak": float((moved - whole)[outside].abs().max()),
        "changed": float((moved - whole)[a:b].abs().max()),
    }
