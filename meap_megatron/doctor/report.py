"""All findings of one process, as text and as JSON."""

import socket
from pathlib import Path
from typing import Any

from meap_megatron.doctor import cluster, gpus, imports, machine, packages, shared
from meap_megatron.doctor.finding import GROUPS, OK, Finding
from meap_megatron.version import __version__


def examine(*, quick: bool, timeout: float, folder: Path | None, task: shared.Task) -> list[Finding]:
    """Look at everything.

    Args:
        quick: import nothing; versions come from the packages' metadata.
        timeout: seconds that one import may take.
        folder: to check whether it is shared; None leaves that out.
        task: this process among those of the job step.
    """
    # First, so that the tasks of a job step meet before their imports take unequally long.
    there = [shared.finding(folder, task=task)] if folder else []
    answers = None if quick else imports.look(packages.keys_to_import(), timeout=timeout)
    found = packages.findings(answers) + gpus.findings(answers, seen=gpus.devices())
    return found + machine.findings() + there + cluster.findings()


def as_dict(findings: list[Finding], *, task: shared.Task, seconds: float) -> dict[str, Any]:
    """Return the report for JSON; `works` says whether the exit status is 0."""
    return {
        "meap_megatron": __version__,
        "host": task.host,
        "task": task.rank,
        "tasks": task.tasks,
        "works": not any(finding.fails for finding in findings),
        "seconds": round(seconds, 2),
        "findings": [finding.as_dict() for finding in findings],
    }


def as_text(findings: list[Finding], *, seconds: float) -> str:
    """Return the report: the findings by group, and under those that are not in order what it costs and what fixes it."""
    name_width = max(len(finding.name) for finding in findings)
    version_width = min(24, max(len(finding.version) for finding in findings))
    indent = " " * 11
    lines = [f"meap_megatron {__version__} on {socket.gethostname()}"]
    for group in GROUPS:
        lines += ["", group]
        for finding in (finding for finding in findings if finding.group == group):
            text = f"  {finding.state:<7}  {finding.name:<{name_width}}  {finding.version:<{version_width}}"
            lines.append(f"{text}  {finding.detail}".rstrip())
            if finding.cost:
                lines.append(f"{indent}costs: {finding.cost}")
            if finding.fix:
                lines.append(f"{indent}fix:   {finding.fix}")
    return "\n".join([*lines, "", f"{verdict(findings)} ({seconds:.1f} s)"])


def verdict(findings: list[Finding]) -> str:
    """Return the last line: what is needed and does not work, or that all of it does."""
    if failed := [finding.name for finding in findings if finding.fails]:
        return f"needed, and not working: {', '.join(failed)}"
    others = [finding.name for finding in findings if finding.state != OK]
    return "everything needed works" + (f"; not as it could be: {', '.join(others)}" if others else "")


def as_line(findings: list[Finding], *, task: shared.Task) -> str:
    """Return one line, for a task that task 0 reports for: its host and what does not work there."""
    failed = [f"{f.name}: {f.detail}" for f in findings if f.fails]
    return f"task {task.rank} on {task.host}: {'; '.join(failed) or 'everything needed works'}"
