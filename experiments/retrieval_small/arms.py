"""The arms of the experiment, in the order in which they run, and the words of `meap train` of each."""

from dataclasses import dataclass
from pathlib import Path

from experiments import runs
from experiments.retrieval_small.plan import MEAP_RATIO, NTP_RATIO, RECIPE, Plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm: what is trained, and where."""

    ratio: float
    seed: int
    folder: Path
    """Of this machine: checkpoints, logs, lock."""
    scores: Path
    """The file that says that the arm is trained and scored; it may come from another machine."""

    @property
    def save(self) -> Path:
        """Return the folder that `meap train` writes."""
        return self.folder / "run"


def arm(ratio: float, seed: int, *, out: Path, record: Path) -> Run:
    """Return the arm of a ratio and a seed."""
    name = f"ratio-{ratio:.2f}-seed-{seed}"
    return Run(ratio=ratio, seed=seed, folder=out / "arms" / name, scores=record / "scores" / f"{name}.json")


def main_runs(plan: Plan, *, out: Path, record: Path) -> list[Run]:
    """Return the runs of the main part: first the pairs of the primary comparison, then the rest, each by seed."""
    runs = [arm(ratio, seed, out=out, record=record) for ratio, seeds in plan.seeds.items() for seed in seeds]
    return sorted(runs, key=lambda run: (run.ratio not in (NTP_RATIO, MEAP_RATIO), run.seed, run.ratio))


def trial_runs(plan: Plan, *, out: Path, record: Path) -> list[Run]:
    """Return the runs outside of the comparison, NTP alone."""
    return [arm(NTP_RATIO, seed, out=out / "trial", record=record / "trial") for seed in plan.trial_seeds]


def overrides(plan: Plan, run: Run, *, prefix: Path) -> list[str]:
    """Return the words of `meap train` after the recipe; arms differ in ratio and seed only."""
    return [
        *plan.overrides,
        f"train_iters={plan.train_iters}",
        f"save_interval={plan.interval}",
        f"eval_interval={plan.train_iters + 1}",  # Megatron validates at the end in any case
        f"data_path={prefix}",
        f"meap_mask_ratio={run.ratio}",
        f"seed={run.seed}",
    ]


def train(plan: Plan, run: Run, *, prefix: Path, lock: int) -> None:
    """Train one arm to its end, unless it is there; see `runs.train`."""
    runs.train(run.folder.name, RECIPE, overrides(plan, run, prefix=prefix), save=run.save, lock=lock)
