"""Check j: `meap evaluate --device cuda` gives the answers that it gives on a CPU."""

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu import data
from benchmarks.gpu.session import NotApplicable, Session, tail
from benchmarks.gpu.trainer import run_meap, settings, train

NEEDED = ("lm_eval", "needlehaystack", "rouge_score")
STEPS = 60


def run(session: Session) -> None:
    """Train a model, export it, and ask both devices the same questions."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NotApplicable(f"{', '.join(missing)} not installed: pip install 'meap-megatron[eval]'")
    if not session.on_gpu:  # once for all commands; on a GPU the libraries might start CUDA before the forks
        importlib.import_module("lm_eval")
    length = 320  # tokens of the haystack, question and answer
    options = [*settings(session), data.text(session), f"seq_length={length}", f"max_position_embeddings={length}"]
    run = train(session, "run", *options, f"train_iters={4 if session.quick else STEPS}", "eval_iters=0").wait()
    folder = session.work / "hf"
    # The tests of conversions verify it; here that imports Megatron once more.
    unverified = ["--skip-verification"] if session.quick else []
    command(session, "export", "convert", "export", run.folder, folder, *unverified)
    devices = ["cpu", session.device]
    answers = []
    for number, device in enumerate(devices):
        out = session.work / f"answers_{number}_{device}"
        asked = ["--lengths", str(length), "--depths", "50", "--variants", "1", "--dtype", "float32"]
        command(
            session, out.name, "evaluate", "needle", "--model", folder, "--out", out, "--device", device, *asked,
            device=device,
        )  # fmt: skip
        answers.append(samples(out / "needle.samples.jsonl"))
    same = sum(one == other for one, other in zip(*answers, strict=True))
    session.add("samples", len(answers[0]), at_least=1)
    session.add("equal answers", same, equals=len(answers[0]))


def command(session: Session, name: str, *options: str | Path, device: str | None = None) -> None:
    """Run a `meap` command.

    Raises:
        RuntimeError: it failed.
    """
    status = run_meap(session, name, *options, device=device)
    if status != 0:
        raise RuntimeError(f"meap {options[0]} ended with {status}\n{tail(session.work / f'{name}.log')}")


def samples(path: Path) -> list[dict[str, Any]]:
    """Return the samples without what differs from run to run by nature."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in sample.items() if name not in ("seconds", "time")} for sample in found]
