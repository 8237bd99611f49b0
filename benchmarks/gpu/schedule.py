"""Run checks within a budget: each a process of its own, those that time nothing beside each other."""

import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.gpu import data, process, results
from benchmarks.gpu.catalogue import CHECKS
from benchmarks.gpu.machine import BROKEN
from benchmarks.gpu.results import Results
from benchmarks.gpu.session import NotApplicable, Session, tail

LOG_BYTES = 1 << 20
QUICK_SECONDS = 8.0
"""Expected of a check in tiny form."""


@dataclass(kw_only=True)
class Budget:
    """Where and how long to run."""

    out: Path
    work: Path
    device: str
    quick: bool
    model: Path | None
    seconds: float
    """In all, the import of Megatron included."""
    jobs: int
    """Checks side by side, of those that time nothing."""
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.began + self.seconds - time.monotonic()

    def expected(self, name: str) -> float:
        """Return the seconds that a check is expected to take."""
        return QUICK_SECONDS if self.quick else CHECKS[name].seconds


def run_all(names: list[str], budget: Budget, found: Results) -> None:
    """Run the checks in order; what does not fit into the budget is skipped and named."""
    use_fresh_if_needed(found)
    process.warm(budget.device)
    prepare(budget)
    waiting = list(names)
    running: dict[str, tuple[BaseProcess, float]] = {}
    # The script may be ended from outside: nothing of it must stay on the card.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while waiting or running:
            for name, (started, began) in list(running.items()):
                if started.exitcode is not None or time.monotonic() - began > limit(name) or budget.left < 0:
                    settle(name, started, began, budget, found)
                    del running[name]
            if waiting and may_start(waiting[0], running, budget):
                name = waiting.pop(0)
                if budget.expected(name) > budget.left:
                    reason = f"expected to take {budget.expected(name):.0f} s, {max(0, budget.left):.0f} s were left"
                    found.note(name, status=results.SKIPPED, reason=reason)
                    print(f"{name}: skipped, {reason}", flush=True)
                    continue
                print(f"{name} ...", flush=True)
                found.note(name, status=results.RUNNING)
                running[name] = (launch(name, budget), time.monotonic())
            time.sleep(0.05)
    finally:
        for started, _ in running.values():
            process.end(started)


def prepare(budget: Budget) -> None:
    """Make the data."""
    log = budget.work / "data.log"
    started = process.start(data.prepare, budget.work, device=budget.device, log=log)
    if process.wait(started, 120) != 0:
        raise RuntimeError(f"the data could not be made\n{tail(log)}")


def use_fresh_if_needed(found: Results) -> None:
    """Give every run an interpreter of its own if the machine check had to, or if Transformer Engine must be hidden."""
    detail = found.checks.get("machine", {}).get("detail", {})
    if detail.get("fresh"):
        process.use_fresh()
    engine = str(detail.get("machine", {}).get("engine", ""))
    if engine.startswith(BROKEN):
        process.hide_engine(engine)


def limit(name: str) -> float:
    """Return the seconds after which a check is ended."""
    return CHECKS[name].limit


def may_start(name: str, running: dict[str, tuple[BaseProcess, float]], budget: Budget) -> bool:
    """Tell whether a check may run beside those that run."""
    if not running:
        return True
    alone = CHECKS[name].alone or any(CHECKS[one].alone for one in running)
    return not alone and len(running) < budget.jobs


def launch(name: str, budget: Budget) -> BaseProcess:
    """Start a check."""
    shutil.rmtree(budget.work / name, ignore_errors=True)
    arguments = (name, budget.out, budget.work, budget.device, budget.quick, budget.model)
    return process.start(be_check, *arguments, device=budget.device, log=budget.work / f"{name}.log")


def be_check(name: str, out: Path, work: Path, device: str, quick: bool, model: Path | None) -> None:
    """Be a check: run it and leave its record."""
    session = Session(out, work, name=name, device=device, quick=quick, model=model)
    session.write(status=results.RUNNING)
    try:
        CHECKS[name].run(session)
    except NotApplicable as reason:
        session.write(status=results.NOT_APPLICABLE, reason=str(reason))
    except Exception as error:
        session.write(status=results.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
    else:
        session.write(status=results.judge(session.record["figures"]))


def settle(name: str, started: BaseProcess, began: float, budget: Budget, found: Results) -> None:
    """Take the record of a check that has ended, or end it."""
    seconds = time.monotonic() - began
    if started.exitcode is None:
        process.end(started)
        kept = {"status": results.TIMED_OUT, "reason": f"ended after {seconds:.0f} s"}
    elif (found.record(name) or {}).get("status") == results.RUNNING:
        said = tail(budget.work / f"{name}.log")
        kept = {"status": results.FAILED, "reason": f"ended with status {started.exitcode}\n{said}"}
    else:
        kept = {}
    found.note(name, **kept, seconds=round(seconds, 1))
    use_fresh_if_needed(found)
    one = found.checks[name]
    if one["status"] not in (results.PASSED, results.NOT_APPLICABLE):
        keep_logs(name, budget)
    reason = f": {one['reason'].splitlines()[0]}" if one.get("reason") else ""
    print(f"{name}: {one['status']} in {seconds:.1f} s{reason}", flush=True)


def keep_logs(name: str, budget: Budget) -> None:
    """Copy the logs of a check that did not pass to the results."""
    folder = budget.work / name
    for path in [budget.work / f"{name}.log", *folder.rglob("*.log"), *folder.rglob("*.jsonl")]:
        if path.is_file() and path.stat().st_size < LOG_BYTES:
            target = budget.out / "logs" / path.relative_to(budget.work)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
