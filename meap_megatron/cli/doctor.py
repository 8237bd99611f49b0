"""`meap doctor`: what is installed, what is missing, what that costs and what fixes it."""

import argparse

HELP = """Say what is installed and works, what is missing, what that costs, and the command that fixes it.

  meap doctor
  meap doctor --quick --json                             for scripts and health checks; imports nothing
  srun --ntasks-per-node=1 meap doctor --shared /data    does every node see the same folder?

Packages are imported in a process of their own: one that crashes or hangs is reported. Under srun, task 0 prints the
report and every other task one line; with --json every task prints one line of JSON.

States:
  ok        works
  differs   works, but not as tested, or smaller than it should be
  missing   not there
  broken    there, and does not work

Exit status: 0; 1 if something needed is missing or broken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--shared", metavar="DIR", help="check that all tasks see this folder, its renames and locks")
    parser.add_argument("--quick", action="store_true", help="import nothing: versions only, below a second")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for one import (default: 30)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Examine this machine and print the report."""
    import json
    import time
    from pathlib import Path

    from meap_megatron.doctor import report
    from meap_megatron.doctor.shared import Task
    from meap_megatron.errors import UserError

    if args.timeout <= 0:
        raise UserError(f"--timeout {args.timeout:g} must be more than 0 seconds")
    task = Task.of()
    begun = time.monotonic()
    folder = Path(args.shared) if args.shared else None
    findings = report.examine(quick=args.quick, timeout=args.timeout, folder=folder, task=task)
    seconds = time.monotonic() - begun
    if args.json:
        print(json.dumps(report.as_dict(findings, task=task, seconds=seconds), indent=None if task.tasks > 1 else 1))
    elif task.rank:
        print(report.as_line(findings, task=task))
    else:
        print(report.as_text(findings, seconds=seconds))
    return int(any(finding.fails for finding in findings))
