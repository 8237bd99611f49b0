"""The command line: calibrate, run, report."""

import argparse
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.retrieval_small import analysis, arms, data, plan, score
from experiments.retrieval_small.plan import Plan, Rung
from meap_megatron.demo.tokenizer import write_text
from meap_megatron.errors import RunError, UserError

PACKAGES = ("megatron-core", "torch", "transformers", "tokenizers", "numpy")


def calibrate(chosen: Plan, out: Path) -> int:
    """Climb the ladder with NTP alone until a rung is chosen or none is left; write calibration.json."""
    tried: dict[str, list[Any]] = {}
    while (state := analysis.choose_rung(chosen, tried))[0] == "next":
        rung = rung_named(chosen, state[1])
        folder = out / "data" / rung.name
        prefix = data.prepare(chosen, rung, folder)
        runs = arms.calibration_runs(chosen, rung, out)
        if not work(chosen, rung, runs, prefix=prefix, stream="calibration"):
            print("calibration: another process has an arm; start this again when it is done")
            return 1
        tried[rung.name] = [read_scores(run) for run in runs]
    content = {"state": state[0], "rung_or_reason": state[1], "label": chosen.label, "tried": tried}
    write_text(out / "calibration.json", json.dumps(content, indent=1) + "\n")
    print(f"calibration: {state[0]}: {state[1]}")
    return 0


def run(chosen: Plan, out: Path) -> int:
    """Train and score every arm of the main part that is not done."""
    rung = calibrated(chosen, out)
    prefix = data.prepare(chosen, rung, out / "data" / rung.name)
    done = work(chosen, rung, arms.main_runs(chosen, out), prefix=prefix, stream="main")
    print("all arms are done: report" if done else "other processes have the remaining arms")
    return 0


def work(chosen: Plan, rung: Rung, runs: list[arms.Run], *, prefix: Path, stream: str) -> bool:
    """Do the runs one after the other; those of other processes are left to them. Returns whether all are done."""
    for number, one in enumerate(runs, start=1):
        with arms.locked(one) as lock:
            if lock is None:
                continue
            if one.scores.exists():
                continue
            print(f"arm {number}/{len(runs)}: {one.folder.name}", flush=True)
            arms.train(chosen, rung, one, prefix=prefix, lock=lock)
            score.score_arm(chosen, rung, one, data=prefix.parent, stream=stream)
    return all(one.scores.exists() for one in runs)


def report(chosen: Plan, out: Path) -> int:
    """Analyse the arms that are done."""
    from experiments.retrieval_small.report import heading, write_report

    rung = calibrated(chosen, out)
    found = [read_scores(one) for one in arms.main_runs(chosen, out) if one.scores.exists()]
    if not found:
        raise UserError(
            f"{out} holds no finished arm; start with: python -m experiments.retrieval_small run --out {out}"
        )
    result = analysis.analyse(chosen, rung, found)
    result["started"] = json.loads((out / "started.json").read_text(encoding="utf-8"))
    result["data"] = json.loads((out / "data" / rung.name / "complete.json").read_text(encoding="utf-8"))
    write_report(out, result, found)
    print(heading(result).replace("**", ""))
    return 0


def read_scores(one: arms.Run) -> Any:
    """Return the scores of a finished arm."""
    return json.loads(one.scores.read_text(encoding="utf-8"))


def rung_named(chosen: Plan, name: str) -> Rung:
    """Return a rung of the ladder."""
    return next(rung for rung in chosen.ladder if rung.name == name)


def calibrated(chosen: Plan, out: Path) -> Rung:
    """Return the rung that the calibration chose.

    Raises:
        UserError: there was no calibration, or it chose none.
    """
    path = out / "calibration.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; first: python -m experiments.retrieval_small calibrate --out {out}")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["state"] != "chosen":
        raise UserError(
            f"the calibration ended without a choice: {content['rung_or_reason']}; there is nothing to run"
        )
    return rung_named(chosen, content["rung_or_reason"])


def begin(chosen: Plan, out: Path) -> None:
    """Record under which protocol and versions a folder was begun, and refuse to go on under others.

    Raises:
        UserError: the protocol is not committed as it stands, or differs from that of the folder, or versions do.
    """
    now = {
        "label": chosen.label,
        "protocol_sha256": plan.protocol_hash(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
    path = out / "started.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {before.get(name)}, is {value}" for name, value in now.items() if before.get(name) != value
        ]
        if changed:
            raise UserError(f"{out} was begun otherwise: {'; '.join(changed)}; use another folder, or go back to that")
        return
    if chosen.label == "registered" and git(
        "status", "--porcelain", "--", str(plan.PROTOCOL), str(Path(__file__).parent)
    ):
        raise UserError("protocol or script are not committed as they stand; commit them before the first run")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**now, "commit": git("rev-parse", "HEAD").strip()}, indent=1) + "\n")


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
    parser.add_argument("part", choices=("calibrate", "run", "report"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see the chain work; no result")
    args = parser.parse_args(words)
    chosen = plan.SMOKE if args.smoke else plan.REGISTERED
    try:
        begin(chosen, args.out)
        return {"calibrate": calibrate, "run": run, "report": report}[args.part](chosen, args.out)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
