"""Check d: a packed row equals its conversations one by one, and no segment sees another."""

from pathlib import Path

from benchmarks.gpu import data, process
from benchmarks.gpu.session import Session, read_json, tail, write_json
from benchmarks.gpu.trainer import NO_TF32

MODEL = (
    "--num-layers 2 --num-attention-heads 4 --group-query-attention --num-query-groups 2 --swiglu --disable-bias-linear "
    "--normalization RMSNorm --position-embedding-type rope --disable-jit-fuser --untie-embeddings-and-output-weights "
    "--micro-batch-size 1 --global-batch-size 8 --train-iters 1 --lr 1e-3 --hidden-dropout 0 --attention-dropout 0 "
    "--eval-iters 0 --make-vocab-size-divisible-by 128 --meap-mask-ratio 0.1 --meap-sft --split 98,2,0 "
    "--no-gradient-accumulation-fusion"
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
    import os

    from meap_megatron.launch import runtime
    from tests.support.packed_rows import comparison

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(runtime.free_port()))
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    options = {"prefix": prefix, "cache": f"{report}.cache", "device": device}
    (found,) = comparison([*MODEL, *flags], **options, modes=("separate",), means=False).values()
    write_json(Path(report), found)
