"""The command line: trial, run, report."""

import argparse
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.retrieval_small import analysis, arms, data, plan, score
from experiments.retrieval_small.plan import Plan
from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError

PACKAGES = ("megatron-core", "torch", "transformers", "tokenizers", "numpy")


def trial(chosen: Plan, out: Path, record: Path) -> int:
    """Train and score NTP alone with seeds that the comparison does not use, on test rows of their own."""
    prefix = data.prepare(chosen, out / "data")
    runs = arms.trial_runs(chosen, out=out, record=record)
    done = work(chosen, runs, prefix=prefix, stream="trial")
    for one in runs if done else []:
        found = analysis.accuracies(read_scores(one), facts=chosen.facts[-1])
        print(f"{one.folder.name}: {' '.join(f'{value:.2f}' for value in found)}")
    return 0 if done else 1


def run(chosen: Plan, out: Path, record: Path) -> int:
    """Train and score every arm of the comparison that is not done.

    Raises:
        UserError: the trial does not allow it.
    """
    if chosen.label == "registered":
        check_committed()
    tried = [read_scores(one) for one in arms.trial_runs(chosen, out=out, record=record) if one.scores.exists()]
    if problem := analysis.trial_problem(chosen, tried):
        raise UserError(f"{problem}; {record / 'trial'} holds its scores, `trial` in the place of `run` makes them")
    prefix = data.prepare(chosen, out / "data")
    begin(chosen, record, rows=data.identity(prefix.parent))
    done = work(chosen, arms.main_runs(chosen, out=out, record=record), prefix=prefix, stream="main")
    print("all arms are done: report" if done else "other processes have the remaining arms")
    return 0


def work(chosen: Plan, runs: list[arms.Run], *, prefix: Path, stream: str) -> bool:
    """Do the runs one after the other; those of other processes are left to them. Returns whether all are done."""
    for number, one in enumerate(runs, start=1):
        with arms.locked(one) as lock:
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


def check_committed() -> None:
    """Refuse to begin or go on with a protocol or script that is not committed.

    Raises:
        UserError: one of them is not.
    """
    files = (plan.PROTOCOL, plan.RECIPE.parent, Path(__file__).parent)
    if git("status", "--porcelain", "--", *map(str, files)):
        raise UserError("protocol, recipes or script are not committed as they stand; commit them before a run")


def begin(chosen: Plan, record: Path, *, rows: dict[str, Any]) -> None:
    """Record under which protocol, versions and data a record was begun, and refuse to go on under others.

    Raises:
        UserError: one of them is another.
    """
    now = {
        "label": chosen.label,
        "protocol_sha256": plan.protocol_hash(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "data": rows,
    }
    path = record / "started.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value
        ]
        if changed:
            raise UserError(f"{record} was begun otherwise: {'; '.join(changed)}; go back to that, or begin another")
        return
    record.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps({**now, "commit": git("rev-parse", "HEAD").strip()}, indent=1) + "\n")


def git(*words: str) -> str:
    """Return what git says in this repository.

    Raises:
        UserError: there is no repository; the experiment has to name its commit.
    """
    try:
        done = subprocess.run(["git", "-C", str(plan.ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"git {words[0]} failed ({error}); run this from a clone of the repository") from None
    return done.stdout


def main(words: list[str] | None = None) -> int:
    """Parse the command line and run one part; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.retrieval_small", description=__doc__)
    parser.add_argument("part", choices=("trial", "run", "report"))
    parser.add_argument("--out", type=Path, required=True, help="working folder: data, checkpoints, logs")
    parser.add_argument("--record", type=Path, help="folder of scores and report (default: the repository's)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see the chain work; no result")
    args = parser.parse_args(words)
    chosen = plan.SMOKE if args.smoke else plan.REGISTERED
    record = args.record or (args.out / "record" if args.smoke else plan.RECORD)
    try:
        return {"trial": trial, "run": run, "report": report}[args.part](chosen, args.out, record)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
