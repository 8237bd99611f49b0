"""`results.json`: what is known of all checks, on disk at any moment, and what is left to do."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu.session import read_json, record_path, write_json
from meap_megatron.version import git_commit

FORMAT = 1
PASSED, MISSED, FAILED = "passed", "target missed", "failed"
TIMED_OUT, SKIPPED, RUNNING = "timed out", "skipped", "running"
NOT_APPLICABLE = "not applicable"
FINISHED = (PASSED, MISSED, FAILED, NOT_APPLICABLE)
"""Not run again when the script is started again."""
GOOD = (PASSED, NOT_APPLICABLE)


def judge(figures: list[dict[str, Any]]) -> str:
    """Return the status that the figures of a check give it."""
    verdicts = {figure["verdict"] for figure in figures}
    return FAILED if "failed" in verdicts else MISSED if "missed" in verdicts else PASSED


class Results:
    """The file of one folder."""

    def __init__(self, out: Path, *, device: str, quick: bool) -> None:
        """Read what an earlier start has left, or begin.

        Raises:
            ValueError: the folder holds results of another device or size.
        """
        self.out, self.path = out, out / "results.json"
        self.head: dict[str, Any] = {"format": FORMAT, "device": device, "quick": quick}
        earlier = read_json(self.path)
        if earlier is not None:
            for name, value in self.head.items():
                if earlier.get(name) != value:
                    raise ValueError(
                        f"{self.path} has {name}={earlier.get(name)!r}, this run {name}={value!r}; give another --out"
                    )
        for name, empty in (("commit", ""), ("date", ""), ("commands", [])):
            self.head[name] = (earlier or {}).get(name, empty)
        self.checks: dict[str, dict[str, Any]] = dict((earlier or {}).get("checks", {}))

    def begin(self, command: str) -> None:
        """Note the commit, the date and the command of a start that runs something."""
        self.head["commit"], self.head["date"] = git_commit() or "unknown", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        self.head["commands"] = [*self.head["commands"], command]

    def record(self, name: str) -> dict[str, Any] | None:
        """Return what a check itself has written."""
        found: dict[str, Any] | None = read_json(record_path(self.out, name))
        return found

    def note(self, name: str, **known: Any) -> None:
        """Take over a check's own record, add what the schedule knows, and write the file."""
        if known.get("status") in (RUNNING, SKIPPED):
            record_path(self.out, name).unlink(missing_ok=True)
            self.checks[name] = {}
        self.checks[name] = {**self.checks.get(name, {}), **(self.record(name) or {}), **known}
        self.write()

    def write(self) -> None:
        """Replace the file."""
        write_json(self.path, {**self.head, "checks": self.checks})

    def status(self, name: str) -> str:
        """Return the status of a check, empty if it never ran."""
        return str(self.checks.get(name, {}).get("status", ""))

    def left(self, names: list[str], *, again: bool) -> list[str]:
        """Return the checks that are still to be run."""
        return [name for name in names if again or self.status(name) not in FINISHED]
