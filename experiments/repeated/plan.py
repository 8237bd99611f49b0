"""The registered numbers and arms of the experiment on repeated data; docs/experiments/repeated_data.md says why."""

from dataclasses import dataclass
from pathlib import Path

from experiments.runs import ROOT

PROTOCOL = ROOT / "docs" / "experiments" / "repeated_data.md"
RECORD = ROOT / "docs" / "experiments" / "repeated_data"
"""What is kept: scores of every arm, versions, tables, figures."""
RECIPE = ROOT / "examples" / "recipes" / "experiments" / "repeated_ntp.yaml"

NTP, TUNED, MEAP = "ntp", "tuned", "mask15"
ARMS: dict[str, tuple[str, ...]] = {
    NTP: ("meap_mask_ratio=0.0",),
    TUNED: ("meap_mask_ratio=0.0",),  # and the best cell of GRID
    MEAP: ("meap_mask_ratio=0.15",),
    "random15": ("meap_mask_ratio=0.15", "meap_corruption=random"),
    "range50": ("meap_mask_ratio=0:0.5",),
    "clean_masked": ("meap_mask_ratio=0:0.5", "meap_pair=clean+masked", "meap_pair_weight=0.4"),
    "mask15_tuned": ("meap_mask_ratio=0.15",),  # and the same cell
}
"""Name -> words of `meap train` behind the recipe."""
GRID = ((0.0, 0.05), (0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.2, 2.0), (0.3, 2.0))
"""(hidden_dropout, weight_decay) that NTP alone is tried with."""
GRID_SEED = 901
MEASURES = ("best", "end")
SMALLEST_DIFFERENCE = 0.01
"""In bits per byte; one below it would be of no interest."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of one experiment."""

    label: str
    seeds: tuple[int, ...] = (1, 2, 3, 4)
    arms: tuple[str, ...] = tuple(ARMS)
    grid: tuple[tuple[float, float], ...] = GRID
    overrides: tuple[str, ...] = ()
    """Words for `meap train` on top of the recipe."""
    train_bytes: int = 250_000
    valid_bytes: int = 90_000
    module_bytes: int = 4_000
    vocab_size: int = 2_048


REGISTERED = Plan(label="registered")
SMOKE = Plan(
    label="smoke",
    seeds=(1,),
    arms=(NTP, TUNED, MEAP),
    grid=GRID[1:2],
    overrides=(
        "num_layers=1",
        "hidden_size=32",
        "ffn_hidden_size=64",
        "num_attention_heads=2",
        "train_iters=8",
        "save_interval=4",
        "eval_interval=4",
        "global_batch_size=4",
        "micro_batch_size=4",
    ),
    train_bytes=30_000,
    valid_bytes=5_000,
    vocab_size=512,
)
"""Shows that the chain works; its numbers mean nothing and every file it writes says so."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run."""

    name: str
    arm: str
    seed: int
    words: tuple[str, ...]
    folder: Path
    """Of this machine: checkpoints, logs, lock."""
    scores: Path
    """The file that says that it is done; it may come from another machine."""


def grid_runs(plan: Plan, *, out: Path, record: Path) -> list[Run]:
    """Return the runs that choose dropout and weight decay, NTP alone."""
    runs = []
    for dropout, decay in plan.grid:
        name = f"dropout-{dropout:g}-decay-{decay:g}"
        words = (*ARMS[NTP], *cell_words(dropout, decay))
        runs.append(
            Run(
                name=name,
                arm=name,
                seed=GRID_SEED,
                words=words,
                folder=out / "grid" / name,
                scores=record / "grid" / f"{name}.json",
            )
        )
    return runs


def main_runs(plan: Plan, *, cell: tuple[float, float], out: Path, record: Path) -> list[Run]:
    """Return the runs of the comparison, seed by seed, so that what is there after a stop has all arms of a seed.

    Args:
        plan: seeds and arms.
        cell: of the grid, for the tuned arms.
        out: working folder.
        record: folder of the scores.
    """
    runs = []
    for seed in plan.seeds:
        for arm in plan.arms:
            name = f"{arm}-seed-{seed}"
            words = (*ARMS[arm], *cell_words(*cell)) if TUNED in arm else ARMS[arm]
            folder, scores = out / "arms" / name, record / "scores" / f"{name}.json"
            runs.append(Run(name=name, arm=arm, seed=seed, words=words, folder=folder, scores=scores))
    return runs


def cell_words(dropout: float, decay: float) -> tuple[str, str]:
    """Return a cell of the grid as words of `meap train`."""
    return f"hidden_dropout={dropout}", f"weight_decay={decay}"
