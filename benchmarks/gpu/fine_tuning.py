"""Check k: a real model, imported from its Hugging Face folder, is fine-tuned and exported."""

from benchmarks.gpu import data
from benchmarks.gpu.answers import command
from benchmarks.gpu.session import NotApplicable, Session
from benchmarks.gpu.trainer import train

STEPS = 30
LENGTH = 1024
MIN_ANSWER = 10
"""Tokens from which an answer gets a masked copy: those of the data are short."""


def run(session: Session) -> None:
    """Import, preprocess conversations with the model's own tokenizer, train, export."""
    if session.model is None:
        raise NotApplicable("no model: give --model DIR, a Hugging Face folder")
    length, micro_batches = (data.ROW, 1) if session.quick else (LENGTH, 4)
    imported, prefix = session.work / "imported", session.work / "conversations"
    command(session, "import", "convert", "import", session.model, imported, "--add-mask-token", device="cpu")
    rows = session.common / "data" / "conversations.json"
    command(
        session, "preprocess", "preprocess", "sft", rows, "--tokenizer", session.model, "--template", "alpaca",
        "--max-length", str(length + 1), "--output", prefix, "--overwrite",
    )  # fmt: skip
    steps = 2 if session.quick else STEPS
    options = [
        f"data_path={prefix}", f"pretrained_checkpoint={imported}", f"seq_length={length}", f"train_iters={steps}",
        f"max_position_embeddings={length}", f"global_batch_size={2 * micro_batches}", "micro_batch_size=2",
        "lr=1e-4", "min_lr=1e-5", "eval_iters=1", "split=90,10,0", "nproc=1", "log_interval=1",
        "meap_mask_ratio=0.10", f"meap_sft_min_answer={MIN_ANSWER}", f"save_interval={steps}",
        f"precision={'bf16' if session.on_gpu else 'fp32'}",
    ]  # fmt: skip
    run = train(session, "run", *options, recipe=imported / "model.yaml", micro_batches=micro_batches).wait()
    losses = run.field("lm_loss")
    session.add("steps", len(losses), equals=steps)
    masked = [loss for loss in run.field("masked_loss") if loss is not None]
    session.add("masked loss is reported", bool(masked), equals=True)
    session.add("first loss", losses[0], "nats")
    session.add("last loss", losses[-1], "nats", **({} if session.quick else {"at_most": losses[0]}))
    if (peak := run.watched.get("peak_allocated_bytes")) is not None:
        session.add("peak memory", peak / 1e9, "GB")
    command(session, "export", "convert", "export", run.folder, session.work / "exported", device="cpu")
    session.add("exported, logits compared", True, equals=True)
