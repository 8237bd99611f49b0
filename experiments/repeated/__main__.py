"""The command line: run, report."""

import argparse
import hashlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from experiments.repeated import data, plan
from experiments.repeated.plan import Plan, Run
from experiments.runs import begin, check_committed, locked, train
from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.training.metrics import read_metrics


def run(chosen: Plan, out: Path, record: Path) -> int:
    """Train every run that is not done: the grid, then the arms."""
    if chosen.label == "registered":
        check_committed(plan.PROTOCOL, plan.RECIPE.parent, Path(__file__).parent)
    sizes = {name: getattr(chosen, name) for name in "train_bytes valid_bytes module_bytes vocab_size".split()}
    text = data.prepare(out / "data", **sizes)
    sha256 = hashlib.sha256(plan.PROTOCOL.read_bytes()).hexdigest()
    begin(record, label=chosen.label, protocol_sha256=sha256, data=text)
    grid = plan.grid_runs(chosen, out=out, record=record)
    if not work(chosen, grid, text=text, folder=out / "data"):
        print("other processes have the rest of the grid; the arms follow when it is done")
        return 0
    arms = plan.main_runs(chosen, cell=best_cell(chosen, grid), out=out, record=record)
    done = work(chosen, arms, text=text, folder=out / "data")
    print("all arms are done: report" if done else "other processes have the remaining arms")
    return 0


def work(chosen: Plan, runs: list[Run], *, text: dict[str, Any], folder: Path) -> bool:
    """Do the runs one after the other; those of other processes are left to them. Returns whether all are done."""
    paths = [f"{name}_data_path={folder / name}" for name in data.SETS]
    for number, one in enumerate(runs, start=1):
        with locked(one.folder) as lock:
            if lock is None or one.scores.exists():
                continue
            print(f"run {number}/{len(runs)}: {one.name}", flush=True)
            words = [*chosen.overrides, *paths, *one.words, f"seed={one.seed}"]
            train(one.name, plan.RECIPE, words, save=one.folder / "run", lock=lock)
            one.scores.parent.mkdir(parents=True, exist_ok=True)
            replace_text(one.scores, json.dumps(read_run(one, label=chosen.label, text=text)) + "\n")
            for checkpoint in sorted((one.folder / "run").glob("iter_*"))[:-1]:
                shutil.rmtree(checkpoint)
    return all(one.scores.exists() for one in runs)


def read_run(one: Run, *, label: str, text: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a finished run from its `metrics.jsonl`.

    Raises:
        RunError: a loss is not finite.
    """
    records = read_metrics(one.folder / "run" / "metrics.jsonl")
    steps = [record for record in records if record["event"] == "step"]
    looks = {record["step"]: record["lm_loss"] for record in records if record["event"] == "validation"}
    if None in looks.values() or steps[-1]["step"] not in looks:
        raise RunError(f"{one.name}: a validation loss is missing or not finite; see {one.folder / 'run'}")
    per_byte = text["valid_tokens"] / text["valid_bytes"] / math.log(2)
    return {
        "label": label,
        "arm": one.arm,
        "seed": one.seed,
        "words": one.words,
        "data": text,
        "bits_per_byte": [[step, loss * per_byte] for step, loss in sorted(looks.items())],
        "training_loss": [[step["step"], step["lm_loss"]] for step in steps if step["step"] in looks],
        "mask_fraction": sum(step["mask_fraction"] or 0.0 for step in steps) / len(steps),
        "starts": sum(record["event"] == "start" for record in records),
        "seconds": sum(step["seconds"] for step in steps),
    }


def best_cell(chosen: Plan, grid: list[Run]) -> tuple[float, float]:
    """Return (hidden_dropout, weight_decay) with the lowest validation loss at any look; the first of equal ones."""
    lowest = [min(bits for _, bits in read_scores(one)["bits_per_byte"]) for one in grid]
    return chosen.grid[lowest.index(min(lowest))]


def read_scores(one: Run) -> Any:
    """Return the scores of a finished run."""
    return json.loads(one.scores.read_text(encoding="utf-8"))


def report(chosen: Plan, out: Path, record: Path) -> int:
    """Analyse the runs that are done; tables and figures go beside their scores."""
    from experiments.repeated.report import analyse, heading, write_report

    grid = plan.grid_runs(chosen, out=out, record=record)
    if not all(one.scores.exists() for one in grid):
        raise UserError(
            f"{record} has no complete grid yet; continue with: python -m experiments.repeated run --out {out}"
        )
    cell = best_cell(chosen, grid)
    runs = plan.main_runs(chosen, cell=cell, out=out, record=record)
    found = [read_scores(one) for one in runs if one.scores.exists()]
    started = json.loads((record / "started.json").read_text(encoding="utf-8"))
    all_scores = [*map(read_scores, grid), *found]
    if strange := [s for s in all_scores if s["data"] != started["data"] or s["label"] != started["label"]]:
        names = ", ".join(f"{scores['arm']} seed {scores['seed']}" for scores in strange)
        raise UserError(f"{record} has runs on other data than it was begun with: {names}")
    result = analyse(chosen, found, grid=[*map(read_scores, grid)], cell=cell) | {"started": started}
    write_report(record, result, found)
    print(heading(result).replace("**", ""))
    return 0


def main(words: list[str] | None = None) -> int:
    """Parse the command line and run one part; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.repeated", description=__doc__)
    parser.add_argument("part", choices=("run", "report"))
    parser.add_argument("--out", type=Path, required=True, help="working folder: data, checkpoints, logs")
    parser.add_argument("--record", type=Path, help="folder of scores and report (default: the repository's)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see the chain work; no result")
    args = parser.parse_args(words)
    chosen = plan.SMOKE if args.smoke else plan.REGISTERED
    record = args.record or (args.out / "record" if args.smoke else plan.RECORD)
    try:
        return {"run": run, "report": report}[args.part](chosen, args.out, record)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
