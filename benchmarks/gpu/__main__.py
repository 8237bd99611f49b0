"""The command line; see the package's text."""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the checks; return 0 if all passed, 1 if not, 2 for input that makes no sense."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parser().parse_args(argv)
    from benchmarks.gpu import page, results, schedule
    from benchmarks.gpu.catalogue import CHECKS
    from benchmarks.gpu.session import ROOT, read_json

    if args.list:
        for name, check in CHECKS.items():
            print(f"{check.letter:<5}{name:<28}{check.seconds:>4.0f} s  {check.title}")
        return 0
    if args.page is not None and not args.run:
        found = None if args.blank else read_json(args.out / "results.json")
        if found is None and not args.blank:
            return refuse(f"{args.out / 'results.json'} is missing or not JSON; run the checks first, or give --out")
        page.write(args.page, found)
        print(f"filled {args.page}")
        return 0
    names = args.only or list(CHECKS)
    if unknown := sorted(set(names) - set(CHECKS)):
        return refuse(f"unknown check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    if args.model is not None and not (args.model / "config.json").is_file():
        return refuse(f"--model {args.model}: not a Hugging Face folder, it has no config.json")
    if args.seconds <= 0 or args.jobs is not None and args.jobs < 1:
        return refuse("--seconds and --jobs must be more than 0")
    if args.device == "cuda" and not has_gpu():
        return refuse("--device cuda, but this machine has no GPU; use --device cpu --quick")
    # Order is the catalogue's, and the machine comes first: the other checks ask what it has found.
    names = [name for name in CHECKS if name in names or name == "machine"]
    args.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.gpu", *argv])
    try:
        found = results.Results(args.out, device=args.device, quick=args.quick)
    except ValueError as error:
        return refuse(str(error))
    again = args.again
    left = found.left(names, again=again)
    if "machine" in left and found.status("machine") in results.FINISHED and args.only and "machine" not in args.only:
        left.remove("machine")
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as work:
        budget = schedule.Budget(
            out=args.out.resolve(),
            work=Path(work),
            device=args.device,
            quick=args.quick,
            model=args.model and args.model.resolve(),
            seconds=args.seconds,
            jobs=args.jobs or (4 if args.device == "cuda" else 1),
        )
        try:
            if left:
                found.begin(command)
                schedule.run_all(left, budget, found)
        finally:
            found.write()
            page.write(args.out / "results.md", read_json(found.path))
    if args.page is not None:
        page.write(args.page, read_json(found.path))
    bad = {name: found.status(name) for name in names if found.status(name) not in results.GOOD}
    print(f"\n{len(names) - len(bad)} of {len(names)} checks passed or do not apply; results in {found.path}")
    print(f"tables in {args.page or args.out / 'results.md'}")
    if args.page is None:
        print(f"`python -m benchmarks.gpu --out {args.out} --page` puts them into {page.PAGE.relative_to(ROOT)}")
    for name, status in bad.items():
        print(f"  {name}: {status}")
    return 1 if bad else 0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Prove and measure this project on one card."
    )
    found.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the results (build/gpu)")
    found.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    found.add_argument("--quick", action="store_true", help="tiny sizes, for tests: the figures mean nothing")
    found.add_argument("--seconds", type=float, default=540.0, help="budget; what does not fit is skipped (540)")
    found.add_argument("--only", nargs="+", metavar="CHECK", help="these checks, and `machine` before them")
    found.add_argument("--again", action="store_true", help="run finished checks again")
    found.add_argument("--jobs", type=int, metavar="N", help="checks side by side where nothing is timed (4; CPU: 1)")
    found.add_argument("--model", type=Path, metavar="DIR", help="a Hugging Face folder to fine-tune (check k)")
    found.add_argument("--list", action="store_true", help="list the checks and exit")
    found.add_argument(
        "--page",
        type=Path,
        nargs="?",
        const=Path("docs/benchmarks/gpu.md"),
        help="fill the tables of this page (docs/benchmarks/gpu.md) from results.json; nothing is run, except with --run",
    )
    found.add_argument("--run", action="store_true", help="with --page: run the checks first")
    found.add_argument("--blank", action="store_true", help="with --page: empty tables, as without results")
    return found


def has_gpu() -> bool:
    """Tell whether this machine looks as if it had a GPU, without touching CUDA, which forks would not survive."""
    return bool(shutil.which("nvidia-smi") or list(Path("/dev").glob("nvidia*")) or Path("/dev/dxg").exists())


def refuse(reason: str) -> int:
    """Say what is wrong with the input."""
    print(f"gpu-check: error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, "lo")  # every run is one process; the machine may have no other network
    status = main()
    sys.stdout.flush()
    sys.exit(status)
