"""The registered numbers and arms of the fine-tuning experiments; docs/experiments/finetuning.md and finetuning_full.md."""

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.runs import ROOT

PAGES = ROOT / "docs" / "experiments"

NTP, EQUAL_EPOCHS, MEAP, UNTOUCHED = "ntp4", "ntp2", "meap2", "untouched"
SMALLEST_DIFFERENCE = 0.02
"""Share of questions; one below it would be of no interest."""

OPERATION = ("num_workers=0", "meap_keep_checkpoints=2")
"""Changes no result; a checkpoint has 2 GB, and the registered runs, which kept all, filled their disk once."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of one experiment."""

    label: str
    protocol: Path = PAGES / "finetuning.md"
    record: Path = PAGES / "finetuning"
    """What is kept of a registered experiment: the scores of every model, versions, tables, figures."""
    seeds: tuple[int, ...]
    arms: dict[str, tuple[str, ...]]
    """Name -> words of `meap train` behind the recipe that the import writes."""
    examples: int | None
    """First examples of the file that are trained on; None: all."""
    row: int
    """Tokens of a training row, into which conversations are packed."""
    overrides: tuple[str, ...]
    suites: dict[str, tuple[str, ...]]
    """Suite of `meap evaluate` -> its words."""


REGISTERED = Plan(
    label="registered",
    seeds=(1, 2, 3),
    arms={
        NTP: ("meap_mask_ratio=0.0", "meap_epochs=4"),
        MEAP: ("meap_mask_ratio=0.1", "meap_epochs=2"),
        EQUAL_EPOCHS: ("meap_mask_ratio=0.0", "meap_epochs=2"),
    },
    examples=150,
    row=1024,
    overrides=("global_batch_size=4", "micro_batch_size=1", "lr=1.0e-4", *OPERATION, "save_interval=10"),
    suites={
        "mdqa": (
            "--tasks",
            "mdqa_10_gold_at_0,mdqa_10_gold_at_4,mdqa_10_gold_at_9",
            "--limit",
            "80",
            "--batch-size",
            "8",
        ),
        "kv": ("--tasks", "kv_75_gold_at_0,kv_75_gold_at_49,kv_75_gold_at_74", "--limit", "4", "--batch-size", "8"),
        "needle": ("--lengths", "1024,2048,4096", "--depths", "0,25,50,75,100"),
    },
)
FULL = replace(
    REGISTERED,
    label="full size",
    protocol=PAGES / "finetuning_full.md",
    record=PAGES / "finetuning_full",
    seeds=(11, 12, 13, 14, 15),
    examples=None,
    overrides=("global_batch_size=8", "micro_batch_size=1", "lr=1.0e-4", *OPERATION, "save_interval=50"),
    suites={
        "mdqa": (*REGISTERED.suites["mdqa"][:2], "--limit", "300"),
        "kv": (*REGISTERED.suites["kv"][:2], "--limit", "100"),
        "needle": REGISTERED.suites["needle"],
    },
)
SMOKE = Plan(
    label="smoke",
    seeds=(1,),
    arms={NTP: ("meap_mask_ratio=0.0", "meap_epochs=1"), MEAP: ("meap_mask_ratio=0.1", "meap_epochs=1")},
    examples=12,
    row=512,
    overrides=("global_batch_size=2", "micro_batch_size=1", "lr=1.0e-4", *OPERATION, "save_interval=2"),
    suites={"mdqa": ("--tasks", "mdqa_10_gold_at_0,mdqa_10_gold_at_4,mdqa_10_gold_at_9", "--limit", "2")},
)
"""Shows that the chain works; its numbers mean nothing and every file it writes says so."""
