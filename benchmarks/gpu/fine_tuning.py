"""Check k: a real model, imported from its Hugging Face folder, is fine-tuned and exported."""

from benchmarks.gpu.answers import command
from benchmarks.gpu.session import NotApplicable, Session
from benchmarks.gpu.trainer import train

STEPS = 30
LENGTH = 1024


def run(session: Session) -> None:
    """Import, preprocess conversations with the model's own tokenizer, train, export."""
    if session.model is None:
        raise NotApplicable("no model: give --model DIR, a Hugging Face folder")
    imported, prefix = session.work / "imported", session.work / "conversations"
    command(session, "import", "convert", "import", session.model, imported, "--add-mask-token", device="cpu")
    rows = session.common / "data" / "conversations.json"
    command(
        session, "preprocess", "preprocess", "sft", rows, "--tokenizer", session.model, "--template", "alpaca",
        "--max-length", str(LENGTH + 1), "--output", prefix, "--overwrite",
    )  # fmt: skip
    steps = 4 if session.quick else STEPS
    words = [
        f"data_path={prefix}", f"pretrained_checkpoint={imported}", f"seq_length={LENGTH}", f"train_iters={steps}",
        f"max_position_embeddings={LENGTH}", "global_batch_size=8", "micro_batch_size=2", "lr=1e-4", "min_lr=1e-5",
        "eval_iters=1", "split=90,10,0", "meap_mask_ratio=0.10", "nproc=1", "log_interval=1",
        f"precision={'bf16' if session.on_gpu else 'fp32'}", f"save_interval={steps}",
    ]  # fmt: skip
    run = train(session, "run", *words, recipe=imported / "model.yaml", micro_batches=4).wait()
    losses = run.field("lm_loss")
    session.add("steps", len(losses), equals=steps)
    session.add("first loss", losses[0], "nats")
    session.add("last loss", losses[-1], "nats", **({} if session.quick else {"at_most": losses[0]}))
    if (peak := run.watched.get("peak_allocated_bytes")) is not None:
        session.add("peak memory", peak / 1e9, "GB")
    command(session, "export", "convert", "export", run.folder, session.work / "exported", device="cpu")
    session.add("exported, logits compared", True, equals=True)
