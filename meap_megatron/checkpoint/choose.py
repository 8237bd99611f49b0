"""Which checkpoint of a folder a run continues from: the one the tracker names, or the newest good one before it."""

from dataclasses import dataclass
from pathlib import Path

from meap_megatron.checkpoint.check import Inspection, Level, inspect
from meap_megatron.checkpoint.folder import Tracker, iteration_folder, iterations, read_tracker


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The outcome."""

    tracker: Tracker
    iteration: int | None
    """The step to continue from; None: there is no good checkpoint."""
    chosen: Inspection | None
    passed_over: list[Inspection]
    """Newer ones that are not whole, newest first."""
    broken_off: list[Inspection]
    """Saves that a kill ended before the tracker named them, newest first."""
    missing: Path | None
    """The folder that the tracker names, if it does not exist."""

    @property
    def damaged(self) -> list[Inspection]:
        """Those passed over that were whole once."""
        return [one for one in self.passed_over if one.state == "damaged"]


def choose(folder: Path, level: Level) -> Choice:
    """Find the checkpoint to continue from.

    The tracker is obeyed: who sets it back by hand means it, so newer checkpoints than the one it names are not used.
    Where it names none (missing, or torn by a kill), the newest good checkpoint counts.
    """
    tracker = read_tracker(folder)
    candidates = iterations(folder)
    missing, broken_off = None, []
    if tracker.iteration is not None:
        named = iteration_folder(folder, tracker.iteration)
        missing = None if named.is_dir() else named
        newer = [inspect(iteration_folder(folder, n), "sizes") for n in candidates if n > tracker.iteration]
        broken_off = [found for found in reversed(newer) if found.state == "unfinished"]
        candidates = [n for n in candidates if n <= tracker.iteration]
    passed_over: list[Inspection] = []
    chosen = iteration = None
    for step in reversed(candidates):
        found = inspect(iteration_folder(folder, step), level)
        if found.loadable:
            chosen, iteration = found, step
            break
        passed_over.append(found)
    return Choice(
        tracker=tracker,
        iteration=iteration,
        chosen=chosen,
        passed_over=passed_over,
        broken_off=broken_off,
        missing=missing,
    )
