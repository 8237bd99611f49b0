"""`meap rehearse`: build a job of any size rank by rank on this machine, and say what would stop it."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meap_megatron.terminal import is_verbose, unmuted

HELP = """Rehearse a job of N processes on one CPU, before the first GPU second.

  meap rehearse examples/recipes/pretrain/llama_1.1b_meap.yaml data_path=data/c4 layout=64
  meap rehearse RECIPE.yaml --world-size 1024 --ranks 0,5,1023
  meap rehearse RECIPE.yaml layout=64 --steps 2            real iterations of the trainer, with small widths
  meap rehearse RECIPE.yaml layout=64 --data-only          what all data-parallel ranks read

Give the recipe and the overrides of the run. Every rank is built as the job would build it: arguments checked by Megatron,
process groups, its part of the model, gradients and optimizer at their true sizes (without memory), the sample index, its
first samples, the checkpoint it begins with and those it would write. Nothing is written but the sample index, which the
job then finds.

Exit status: 0; 2 if something would stop the job; 1 if the rehearsal itself failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", help="a YAML file: `meap init` writes one, `meap init --examples` copies ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's")
    parser.add_argument(
        "--world-size", type=int, metavar="N", help="processes of the job (default: those of layout=N)"
    )
    parser.add_argument(
        "--ranks", help="such as 0,5,1023 (default: first, last, and one of the middle pipeline stage)"
    )
    parser.add_argument("--shapes", action="store_true", help="each rank at its true sizes (the default)")
    parser.add_argument("--steps", type=int, metavar="K", help="each rank with small widths, for K real iterations")
    parser.add_argument("--data-only", action="store_true", help="the samples of all data-parallel ranks, no model")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="samples that --data-only reads (default: a minute's)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check what can be checked without Megatron, then rehearse the ranks one after the other."""
    import json

    from meap_megatron.errors import UserError
    from meap_megatron.launch import runtime
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.rehearsal import fakes
    from meap_megatron.rehearsal import job as jobs
    from meap_megatron.rehearsal import ranks as chosen
    from meap_megatron.rehearsal import text as report
    from meap_megatron.training import platform

    began = time.monotonic()
    for name in ("world_size", "steps", "samples"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1")
    job = jobs.load(args.recipe, args.overrides, world=args.world_size, flags=read_flags())
    ranks = chosen.parse(args.ranks, job) if args.ranks else chosen.default(job)
    shapes = args.shapes or args.steps is None

    def say(lines: list[str]) -> None:
        if not args.json:  # stdout is then for the object alone
            print("\n".join(lines), flush=True)  # at once: a rank may take a minute

    say(report.of_job(job))
    runtime.set_thread_policy()
    platform.prepare("cpu")
    with tempfile.TemporaryDirectory(prefix="meap-rehearsal-") as folder:
        log = None if is_verbose() else Path(folder) / "log"
        if args.data_only:
            found = of_data(job, samples=args.samples, log=log, say=say)
        else:
            found = of_ranks(job, ranks, shapes=shapes, steps=args.steps, log=log, say=say)
    found |= {
        "recipe": str(args.recipe),
        "world_size": job.layout.world,
        "device": job.device,
        "replaced": fakes.replaced(job, shapes=shapes, steps=args.steps is not None),
        "not_checked": fakes.unchecked(job),
        "seconds": round(time.monotonic() - began, 1),
    }
    if args.json:
        print(json.dumps(found))
        return 0
    if not args.data_only:
        say(["replaced     " + "\n             ".join(found["replaced"])])
        say(["not checked  " + ", ".join(found["not_checked"])])
    what = "the data" if args.data_only else f"{len(ranks)} of {job.layout.world:,} ranks"
    warned = "".join(f"\nwarning: {text}" for text in found["warnings"])
    with unmuted():  # the verdict is what a rehearsal is for
        say([f"nothing found that would stop this job ({what}, {found['seconds']:.1f} s){warned}"])
    return 0


def of_data(job: Any, *, samples: int | None, log: Path | None, say: Callable[[list[str]], None]) -> dict[str, Any]:
    """Rehearse the data of all ranks."""
    from meap_megatron.rehearsal import data_coverage
    from meap_megatron.rehearsal import text as report

    found = data_coverage.rehearse(job, samples=samples, log=log, screen=sys.stderr)
    say(["", *report.of_everyone(found), ""])
    return {"data": found, "warnings": []}


def of_ranks(
    job: Any, ranks: list[int], *, shapes: bool, steps: int | None, log: Path | None, say: Callable[[list[str]], None]
) -> dict[str, Any]:
    """Rehearse some ranks, each in a process of its own."""
    from meap_megatron.rehearsal import in_fork
    from meap_megatron.rehearsal import shapes as true_sizes
    from meap_megatron.rehearsal import steps as iterations
    from meap_megatron.rehearsal import text as report

    def each(work: Callable[[], Any], show: Callable[[Any], list[str]]) -> list[Any]:
        results = []
        for rank in ranks:
            results.append(in_fork.of_rank(rank, work, log=log, world=job.layout.world))
            say(show(results[-1]))
        return results

    found: dict[str, Any] = {"warnings": []}
    say([""])
    if shapes:
        found["ranks"] = each(lambda: true_sizes.rehearse(job, screen=sys.stderr), report.of_rank)
        say(["", *report.of_run(found["ranks"][0])])
        found["warnings"] = report.warnings(found["ranks"][0])
    if steps is not None:
        found["steps"] = each(lambda: iterations.rehearse(job, steps, screen=sys.stderr), report.of_steps)
        say([""])
    return found
