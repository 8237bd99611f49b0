"""Run all benchmarks, one after the other, and collect their JSON lines in one file: what `make bench` does.

Every script beside this one is a benchmark that prints tables, and one JSON document as its last line. `ARGUMENTS` holds
what keeps a script within its share of a quarter of an hour on two cores; a script that is not listed runs with its
defaults. One that fails or runs out of time is named, the others still run.

    python benchmarks/run.py                             build/bench/DATE-COMMIT.json
    python benchmarks/run.py --only sample sft --out new.json
    python benchmarks/compare.py old.json new.json       what became slower
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timing

from meap_megatron.atomic import replace_text
from meap_megatron.version import git_commit

HERE = Path(__file__).resolve().parent
NO_BENCHMARKS = {"run", "compare", "random_data", "timing"}
ARGUMENTS: dict[str, list[str]] = {
    "convert": ["--layers", "4"],
    "index": ["--documents", "1e6", "--conversations", "1e6", "--repeats", "2"],
    "preprocess": ["--megabytes", "20", "--large", "40", "--rounds", "1"],
    "soak": ["--quick"],
    "step": ["--sizes", "16m", "--seconds", "20"],
}
"""Script -> its arguments here; the full sizes are what docs/benchmarks shows."""
LIMIT = 240.0
"""Seconds that one script may take."""
TOTAL = 840.0
"""Seconds after which no other script is started: 14 of the 15 minutes."""
FORMAT = 1


def scripts(folder: Path) -> dict[str, Path]:
    """Return the benchmarks of a folder by name, in alphabetical order."""
    found = {path.stem: path for path in sorted(folder.glob("*.py"))}
    return {name: path for name, path in found.items() if name not in NO_BENCHMARKS}


def run_script(path: Path, argv: list[str], *, limit: float) -> tuple[dict[str, Any] | None, str]:
    """Run one benchmark, show what it prints, and return its document, or None and what went wrong.

    Args:
        path: of the script.
        argv: its arguments.
        limit: seconds after which it is ended, with the processes it has started.
    """
    command = [sys.executable, str(path), *argv]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    last = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(last, end="", flush=True)  # all but the last line, which is the document
            last = line
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == -signal.SIGKILL:
        return None, f"ended after {limit:.0f} s"
    if status != 0:
        print(last, end="")
        return None, f"exit status {status}"
    try:
        document = json.loads(last)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return None, f"its last line is not a JSON document: {last[:80]!r}"
    return document, ""


def run_all(
    paths: dict[str, Path], *, quick: bool, limit: float = LIMIT, total: float = TOTAL
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run benchmarks; return a record for each that ended well, and a reason for each that did not.

    Args:
        paths: name -> script.
        quick: give every script `--quick`, and nothing else.
        limit: seconds per script.
        total: seconds after which no other script is started.
    """
    records: dict[str, Any] = {}
    failed: dict[str, str] = {}
    began = time.monotonic()
    for name, path in paths.items():
        if time.monotonic() - began > total:
            failed[name] = f"not started: the others took more than {total:.0f} s"
            continue
        argv = ["--quick"] if quick else ARGUMENTS.get(name, [])
        print(f"\n== {' '.join([path.name, *argv])}", flush=True)
        started = time.monotonic()
        document, reason = run_script(path, argv, limit=limit)
        if document is None:
            failed[name] = reason
        else:
            records[name] = {
                "arguments": argv,
                "seconds": round(time.monotonic() - started, 1),
                "document": document,
            }
    return records, failed


def main(argv: list[str] | None = None) -> int:
    """Run; return 0, or 1 if a benchmark failed, or 2 for a name that is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the file with all results (build/bench/DATE-COMMIT.json)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these benchmarks (all)")
    parser.add_argument("--quick", action="store_true", help="little data, for tests: the figures mean nothing (off)")
    args = parser.parse_args(argv)
    paths = scripts(HERE)
    unknown = sorted(set(args.only or []) - set(paths))
    if unknown:
        print(
            f"run: error: no benchmark is called {', '.join(unknown)}; there are {', '.join(paths)}", file=sys.stderr
        )
        return 2
    paths = {name: path for name, path in paths.items() if args.only is None or name in args.only}
    # Seconds since the start of the epoch do not help people, and two runs of one minute are rare.
    now, version = datetime.now(UTC), git_commit() or "unknown"
    out: Path = args.out or HERE.parent / "build" / "bench" / f"{now:%Y%m%d-%H%M}-{version[:9]}.json"
    began = time.monotonic()
    records, failed = run_all(paths, quick=args.quick)
    seconds = time.monotonic() - began
    results = {
        "format": FORMAT,
        "date": f"{now:%Y-%m-%d %H:%M} UTC",
        "commit": version,
        "seconds": round(seconds, 1),
        "quick": args.quick,
        "benchmarks": records,
        "failed": failed,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, json.dumps(results, indent=1) + "\n")
    timing.print_table(("benchmark", "seconds"), *((name, f"{one['seconds']:.1f}") for name, one in records.items()))
    for name, reason in failed.items():
        print(f"{name} failed: {reason}")
    print(f"\n{seconds:.0f} s in all; results in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
