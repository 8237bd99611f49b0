"""The command line: run, report."""

import argparse
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.finetuning import plan
from experiments.finetuning.plan import UNTOUCHED, Plan
from experiments.runs import begin, check_committed, locked, meap, train
from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.indexed.sidecar import read_sidecar
from meap_megatron.training.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model: trained, exported, evaluated."""

    arm: str
    seed: int
    folder: Path
    scores: Path


def main_runs(chosen: Plan, *, out: Path, record: Path) -> list[Run]:
    """Return the model before fine-tuning, then the arms seed by seed."""
    pairs = [(UNTOUCHED, 0), *((arm, seed) for seed in chosen.seeds for arm in chosen.arms)]
    return [
        Run(
            arm=arm,
            seed=seed,
            folder=out / "arms" / f"{arm}-seed-{seed}",
            scores=record / "scores" / f"{arm}-seed-{seed}.json",
        )
        for arm, seed in pairs
    ]


def prepare(chosen: Plan, *, model: Path, alpaca: Path, out: Path) -> dict[str, Any]:
    """Import the model and index the conversations, unless they are there; return what tells them from others.

    Raises:
        UserError: the file of conversations is no JSON list.
        RunError: a command failed.
    """
    base, known = out / "base", out / "data.json"
    if known.is_file():
        return json.loads(known.read_text(encoding="utf-8"))
    try:
        examples = json.loads(alpaca.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {alpaca}: {error}; --alpaca is a JSON list of Alpaca examples") from None
    out.mkdir(parents=True, exist_ok=True)
    if not (base / "sft_ntp.yaml").is_file():
        shutil.rmtree(base, ignore_errors=True)
        meap("convert", "import", model, base, "--add-mask-token")
    text = json.dumps(examples[: chosen.examples])
    replace_text(out / "alpaca.json", text)
    tokenizer, longest = base / "tokenizer", chosen.row + 1
    words = ["preprocess", "sft", out / "alpaca.json", "--tokenizer", tokenizer, "--max-length", str(longest)]
    meap(*words, "--output", out / "alpaca", "--workers", "1", "--overwrite")
    sidecar = read_sidecar(out / "alpaca")
    weights = hashlib.sha256((base / "hf" / "config.json").read_bytes()).hexdigest()
    found = {
        "alpaca_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "content_hash": sidecar.content_hash,
        "tokens": sidecar.num_tokens,
        "examples": len(examples[: chosen.examples]),
        "model_config_sha256": weights,
    }
    replace_text(known, json.dumps(found, indent=1) + "\n")
    return found


def run(chosen: Plan, args: argparse.Namespace, record: Path) -> int:
    """Train, export and evaluate every arm that is not done.

    Raises:
        UserError: an input is missing.
        RunError: a command failed.
    """
    if missing := [name for name in ("model", "alpaca", "questions") if getattr(args, name) is None]:
        raise UserError(f"run needs --{missing[0]}; see python -m experiments.finetuning --help")
    if chosen is not plan.SMOKE:
        check_committed(chosen.protocol, Path(__file__).parent)
    data = prepare(chosen, model=args.model, alpaca=args.alpaca, out=args.out)
    sha256 = hashlib.sha256(chosen.protocol.read_bytes()).hexdigest()
    begin(record, label=chosen.label, protocol_sha256=sha256, data=data)
    runs = main_runs(chosen, out=args.out, record=record)
    for number, one in enumerate(runs, start=1):
        with locked(one.folder) as lock:
            if lock is None or one.scores.exists():
                continue
            print(f"model {number}/{len(runs)}: {one.folder.name}", flush=True)
            checkpoint, steps, device = args.out / "base", 0, None
            if one.arm != UNTOUCHED:
                checkpoint = one.folder / "run"
                words = [*chosen.overrides, *chosen.arms[one.arm], f"seed={one.seed}", f"seq_length={chosen.row}"]
                words += [f"data_path={args.out / 'alpaca'}", f"pretrained_checkpoint={args.out / 'base'}"]
                train(one.folder.name, args.out / "base" / "sft_meap.yaml", words, save=checkpoint, lock=lock)
                steps, device = trained(checkpoint)
            exported = one.folder / "hf"
            if not (exported / "config.json").is_file():
                # Over all 30 layers, rounding at far positions can exceed what the comparison of logits tolerates.
                meap("convert", "export", checkpoint, exported, "--verify-layers", "8")
            for suite, options in chosen.suites.items():
                data_words = ["--data", args.questions, "--out", one.folder / "evaluation"]
                meap("evaluate", suite, "--model", exported, *data_words, "--dtype", "float32", *options)
            one.scores.parent.mkdir(parents=True, exist_ok=True)
            found = read_results(one, suites=chosen.suites)
            scores = {"label": chosen.label, "arm": one.arm, "seed": one.seed, "steps": steps, "device": device}
            replace_text(one.scores, json.dumps({**scores, "data": data, **found}) + "\n")
            shutil.rmtree(exported)
    print("all models are done: report" if all(one.scores.exists() for one in runs) else "others have the rest")
    return 0


def trained(run: Path) -> tuple[int, str]:
    """Return the steps of a finished run and the device that made them: `cpu`, or the name of the card."""
    records = read_metrics(run / "metrics.jsonl")
    last = [record for record in records if record["event"] == "start"][-1]
    return len({record["step"] for record in records if record["event"] == "step"}), last["run"]["device"]


def read_results(one: Run, *, suites: dict[str, Any]) -> dict[str, Any]:
    """Return the headline of every suite, and of multi-document QA the outcome of every question at every place."""
    folder = one.folder / "evaluation"
    headlines = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in suites}
    outcomes: dict[str, list[float]] = {}
    for line in (folder / "mdqa.samples.jsonl").read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        outcomes.setdefault(sample["task"], []).append(sample["metrics"].get("best_subspan_em", 0.0))
    return {
        "headlines": {name: document["headline"] for name, document in headlines.items()},
        "prompts": {name: [task["prompts_sha256"] for task in doc["tasks"]] for name, doc in headlines.items()},
        "mdqa": outcomes,
    }


def report(chosen: Plan, args: argparse.Namespace, record: Path) -> int:
    """Analyse the models that are done."""
    from experiments.finetuning.report import analyse, heading, write_report

    runs = main_runs(chosen, out=args.out, record=record)
    found = [json.loads(one.scores.read_text(encoding="utf-8")) for one in runs if one.scores.exists()]
    if not found:
        raise UserError(f"{record} has no finished model; start with: python -m experiments.finetuning run ...")
    result = analyse(chosen, found)
    write_report(record, result)
    print(heading(result).replace("**", ""))
    return 0


def main(words: list[str] | None = None) -> int:
    """Parse the command line and run one part; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.finetuning", description=__doc__)
    parser.add_argument("part", choices=("run", "report"))
    parser.add_argument("--out", type=Path, required=True, help="working folder: checkpoints, exports, answers")
    parser.add_argument("--model", type=Path, help="SmolLM2-135M-Instruct: Hugging Face folder or GGUF file")
    parser.add_argument("--alpaca", type=Path, help="JSON list of Alpaca examples")
    parser.add_argument("--questions", type=Path, help="folder with nq-open-oracle.jsonl.gz")
    parser.add_argument("--record", type=Path, help="folder of scores and report (default: the repository's)")
    parser.add_argument(
        "--full", action="store_true", help="the experiment for a GPU: docs/experiments/finetuning_full.md"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="few examples and questions, to see the chain work; no result"
    )
    args = parser.parse_args(words)
    chosen = plan.SMOKE if args.smoke else plan.FULL if args.full else plan.REGISTERED
    record = args.record or (args.out / "record" if args.smoke else chosen.record)
    try:
        return {"run": run, "report": report}[args.part](chosen, args, record)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
