"""How long a user waits: `meap --help`, `meap train --dry-run`, and the first training step of the tiny recipe.

Each is a program of its own, timed from outside: by the clock, and in processor time (user and system), which other programs
on the machine change little. Beside them an interpreter that does nothing, and the peer of the first step: an interpreter
that imports Megatron's trainer and no more. They take turns; figures are medians.

The first step ends inside the trainer: from the start of the program to the end of Megatron's first `train_step`, and
where the time goes, phase by phase. Targets: help under 0.3 s, dry run under 2 s.
The last line is one JSON document.

    python benchmarks/startup.py            about two minutes
    python benchmarks/startup.py --quick    one turn, for tests
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MEAP_THREADS", "1")

import timing
from soak import write_data

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "examples" / "recipes" / "tiny_cpu_meap.yaml"
PYTHON = sys.executable
MEAP = [PYTHON, "-m", "meap_megatron.cli.main"]
PEER = ["-c", "import megatron.training.training"]
NOTHING, HELP, DRY, IMPORT, STEP = "python", "meap --help", "meap train --dry-run", "import of Megatron", "first step"


def phases(out: Path, argv: list[str]) -> None:
    """Train to the end of the first step in this process, write the phases to a file, and end it."""
    marks = [("interpreter, this script", 0.0)]
    found: dict[str, float] = {}

    def mark(name: str) -> None:
        now = time.process_time()
        found[name] = found.get(name, 0.0) + now - marks[-1][1]
        marks.append((name, now))

    def timed(name: str, before: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mark(before)
            result = function(*args, **kwargs)
            mark(name)
            return result

        return call

    mark("interpreter, this script")
    from meap_megatron.training import platform, pretrain

    mark("imports of ours")
    original = platform.prepare

    def prepare(device: str) -> None:
        mark("data, checkpoint")
        original(device)
        mark("import of Megatron")
        from megatron.training import training

        # Megatron's own start: process groups, model and optimizer, datasets.
        for function, name in (
            ("initialize_megatron", "process group"),
            ("setup_model_and_optimizer", "model, optimizer"),
            ("build_train_valid_test_data_iterators", "datasets, loaders"),
        ):
            setattr(training, function, timed(name, "settings, the rest", getattr(training, function)))
        step = training.train_step

        def first_step(*args: Any, **kwargs: Any) -> None:
            mark("settings, the rest")
            step(*args, **kwargs)
            mark("step")
            out.write_text(json.dumps(found))
            os._exit(0)

        training.train_step = first_step

    platform.prepare = prepare
    sys.exit(pretrain.main(argv))


def run(command: list[str]) -> tuple[float, float, str]:
    """Run a program; return seconds by the clock, in processor time with all its children, and what it said."""
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    after = os.times()
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, used, done.stdout + done.stderr


def main() -> int:
    """Run, print the tables, and the JSON document last."""
    if sys.argv[1:2] == ["--phases"]:
        phases(Path(sys.argv[2]), sys.argv[3:])
    quick = timing.arguments(__doc__).parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = [str(RECIPE), f"data_path={write_data(folder, byte_limit=1_000_000)}", f"save={folder / 'run'}"]
        dry = [*MEAP, "train", *recipe, "device=cpu", "--dry-run"]
        flags = run(dry)[2].split()[3:]  # without `python -m MODULE`; no word of it holds a space
        programs = {
            NOTHING: [PYTHON, "-c", "pass"],
            HELP: [*MEAP, "--help"],
            DRY: dry,
            IMPORT: [PYTHON, *PEER],
            STEP: [PYTHON, __file__, "--phases", str(folder / "phases"), *flags, "--meap-device=cpu"],
        }
        run(programs[STEP])  # builds the sample index, once
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        parts: list[dict[str, float]] = []
        for _ in range(1 if quick else 5):
            for name, command in programs.items():
                times[name].append(run(command)[:2])
            parts.append(json.loads((folder / "phases").read_text()))

    seconds, processor = (
        {name: round(statistics.median(turn[clock] for turn in turns), 4) for name, turns in times.items()}
        for clock in (0, 1)
    )
    profile = {name: round(statistics.median(part[name] for part in parts), 4) for name in parts[0]}
    timing.print_table(
        ("", "clock s", "processor s"),
        *((name, f"{seconds[name]:.2f}", f"{processor[name]:.2f}") for name in programs),
    )
    timing.print_table(
        ("first step, processor seconds", ""), *((name, f"{value:.2f}") for name, value in profile.items())
    )
    ratios = {
        f"{name}_over_import_of_megatron": processor[program] / processor[IMPORT]
        for name, program in (("first_step", STEP), ("help", HELP), ("dry_run", DRY))
    }
    return timing.publish(
        "startup",
        quick=quick,
        ratios=ratios,
        packages=("torch", "megatron-core", "transformers"),
        lower_is_better=list(ratios),
        programs={name: {"seconds": seconds[name], "processor_seconds": processor[name]} for name in programs},
        first_step_processor_seconds=profile,
    )


if __name__ == "__main__":
    sys.exit(main())
