"""The command line: trial, run, report."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from experiments.retrieval_small import analysis, arms, data, plan, score
from experiments.retrieval_small.data import file_hash
from experiments.retrieval_small.plan import Plan
from experiments.runs import begin, check_committed, locked
from meap_megatron.errors import RunError, UserError


def trial(chosen: Plan, out: Path, record: Path) -> int:
    """Train and score NTP alone with seeds that the comparison does not use, on test rows of their own."""
    prefix = data.prepare(chosen, out / "data")
    runs = arms.trial_runs(chosen, out=out, record=record)
    done = work(chosen, runs, prefix=prefix, stream=chosen.streams[0])
    for one in runs if done else []:
        found = analysis.accuracies(read_scores(one), facts=chosen.facts[-1])
        print(f"{one.folder.name}: {' '.join(f'{value:.2f}' for value in found)}")
    return 0 if done else 1


def run(chosen: Plan, out: Path, record: Path) -> int:
    """Train and score every arm of the comparison that is not done.

    Raises:
        UserError: the trial does not allow it.
    """
    if chosen is not plan.SMOKE:
        check_committed(chosen.protocol, plan.RECIPE.parent, Path(__file__).parent)
    tried = [read_scores(one) for one in arms.trial_runs(chosen, out=out, record=record) if one.scores.exists()]
    if problem := analysis.trial_problem(chosen, tried):
        raise UserError(f"{problem}; {record / 'trial'} holds its scores, `trial` in the place of `run` makes them")
    prefix = data.prepare(chosen, out / "data")
    identity = data.identity(prefix.parent)
    begin(record, label=chosen.label, protocol_sha256=file_hash(chosen.protocol), data=identity)
    done = work(chosen, arms.main_runs(chosen, out=out, record=record), prefix=prefix, stream=chosen.streams[-1])
    print("all arms are done: report" if done else "other processes have the remaining arms")
    return 0


def work(chosen: Plan, runs: list[arms.Run], *, prefix: Path, stream: str) -> bool:
    """Do the runs one after the other; those of other processes are left to them. Returns whether all are done."""
    for number, one in enumerate(runs, start=1):
        with locked(one.folder) as lock:
            if lock is None:
                continue
            if one.scores.exists():
                continue
            print(f"arm {number}/{len(runs)}: {one.folder.name}", flush=True)
            arms.train(chosen, one, prefix=prefix, lock=lock)
            score.score_arm(chosen, one, data=prefix.parent, stream=stream)
    return all(one.scores.exists() for one in runs)


def report(chosen: Plan, out: Path, record: Path) -> int:
    """Analyse the arms that are done; tables and figures go beside their scores."""
    from experiments.retrieval_small.report import heading, write_report

    found = [read_scores(one) for one in arms.main_runs(chosen, out=out, record=record) if one.scores.exists()]
    if not found:
        raise UserError(
            f"{record} holds no finished arm; start with: python -m experiments.retrieval_small run --out {out}"
        )
    started = json.loads((record / "started.json").read_text(encoding="utf-8"))
    if strange := [one for one in found if one["data"] != started["data"] or one["label"] != started["label"]]:
        names = ", ".join(f"ratio {one['ratio']} seed {one['seed']}" for one in strange)
        raise UserError(f"{record} holds arms that were trained on other data than it was begun with: {names}")
    result = analysis.analyse(chosen, found)
    result["started"] = started
    write_report(record, result, found)
    print(heading(result).replace("**", ""))
    return 0


def read_scores(one: arms.Run) -> Any:
    """Return the scores of a finished arm."""
    return json.loads(one.scores.read_text(encoding="utf-8"))


def main(words: list[str] | None = None) -> int:
    """Parse the command line and run one part; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.retrieval_small", description=__doc__)
    parser.add_argument("part", choices=("trial", "run", "report"))
    parser.add_argument("--out", type=Path, required=True, help="working folder: data, checkpoints, logs")
    parser.add_argument("--record", type=Path, help="folder of scores and report (default: the repository's)")
    parser.add_argument(
        "--past-plateau", action="store_true", help="the later experiment: docs/experiments/past_plateau.md"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see the chain work; no result")
    args = parser.parse_args(words)
    chosen = plan.SMOKE if args.smoke else plan.PAST_PLATEAU if args.past_plateau else plan.REGISTERED
    record = args.record or (args.out / "record" if args.smoke else chosen.record)
    try:
        return {"trial": trial, "run": run, "report": report}[args.part](chosen, args.out, record)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
