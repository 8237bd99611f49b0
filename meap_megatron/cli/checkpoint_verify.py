"""`meap checkpoint verify`: read every byte of a run's checkpoints and compare it with the manifests."""

import argparse

HELP = """Compare every file of a folder's checkpoints with the manifests, and read the index of each checkpoint.

  meap checkpoint verify runs/mine                      all of them
  meap checkpoint verify runs/mine --iteration 1000     one

A checkpoint without a manifest (plain Megatron's) is checked by its index: it must be readable, and every file that it
names must be there and long enough. The index is a pickle: verify only checkpoints that you would load.

Exit status: 0 all are whole; 1 one is damaged or unfinished; 2 there is nothing to verify."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", help="the `save` folder of a run")
    parser.add_argument("--iteration", type=int, metavar="N", help="verify the checkpoint of this step only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify, print a line per checkpoint and per fault."""
    import json
    from pathlib import Path

    from meap_megatron.checkpoint.check import inspect
    from meap_megatron.checkpoint.folder import iteration_folder, iterations
    from meap_megatron.checkpoint.listing import as_json, size_text
    from meap_megatron.errors import RunError, UserError

    folder = Path(args.folder)
    present = iterations(folder) if folder.is_dir() else []
    if not present:
        raise UserError(f"{folder} holds no checkpoint (iter_NNNNNNN)", fix="name the `save` folder of a run")
    if args.iteration is not None and args.iteration not in present:
        raise UserError(
            f"{folder} has no checkpoint of step {args.iteration}",
            fix=f"take --iteration {' or '.join(map(str, present))}",
        )
    results = []
    for iteration in present if args.iteration is None else [args.iteration]:
        found = inspect(iteration_folder(folder, iteration), "full", read_index=True)
        results.append(found)
        if not args.json:
            print(f"{found.checkpoint.name}  {size_text(found.bytes):>9}  {found.state}")
            for problem in found.problems:
                print(f"  {problem}")
    if args.json:
        print(json.dumps({"folder": str(folder), "checkpoints": [as_json(found) for found in results]}))
    bad = [found.checkpoint.name for found in results if not found.loadable]
    if bad:
        raise RunError(f"not whole: {', '.join(bad)}; a run in {folder} continues from the newest good one before it")
    return 0
