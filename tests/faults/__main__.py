"""Many trials: `python -m tests.faults --trials 27` prints a table, then one JSON line; exit status 1 if any failed."""

import argparse
import collections
import json
import tempfile
from pathlib import Path

from tests.faults.harness import FAULTS, Trial, Workshop, can_mount


def row(trial: Trial) -> str:
    """Return one line of the table."""
    return (
        f"{trial.fault:<22} {trial.layout:<5} {'ok' if trial.passed else 'FAILED':<7} {trial.seconds:5.0f} s  "
        f"{trial.moment:<32} {trial.outcome}" + (f"; said: {trial.message}" if trial.message else "")
    )


def main() -> int:
    """Parse, run the trials, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--trials", type=int, default=27, help="how many, spread over the kinds of fault")
    parser.add_argument("--seed", type=int, default=1, help="of moments, ranks and layouts")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only these kinds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meap-faults-") as name:
        root = Path(name)
        kinds = list(args.fault or FAULTS)
        if "disk full in save" in kinds and not can_mount(root / "disk"):
            kinds.remove("disk full in save")
            print("disk full in save: left out, this machine does not let us mount a small disk")
        workshop = Workshop(root / "work", seed=args.seed)
        trials = []
        for number in range(args.trials):
            trials.append(workshop.try_once(kinds[number % len(kinds)]))
            print(row(trials[-1]), flush=True)
    failed = [trial for trial in trials if not trial.passed]
    result = {
        "benchmark": "faults",
        "seed": args.seed,
        "trials": len(trials),
        "failed": len(failed),
        "by_fault": dict(collections.Counter(trial.fault for trial in trials)),
    }
    print(json.dumps(result))
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
