"""`meap checkpoint list`: what a folder of checkpoints holds, and which one a run continues from."""

import argparse

HELP = """List the checkpoints of a folder: step, size, state, layout, when it was written, and which one would be loaded.

  meap checkpoint list runs/mine
  meap checkpoint list runs/mine --json

Compares sizes with the manifests; `meap checkpoint verify` reads the contents. States:
  good          its manifest is complete and every file has its size
  no manifest   Megatron alone wrote it; its index can be read and its files are long enough
  unfinished    an interrupted save
  damaged       a file is missing, too short, or cannot be read

Exit status: 0; 2 if DIR is not a folder, or holds no checkpoint that can be loaded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", help="the `save` folder of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    import json
    from pathlib import Path

    from meap_megatron.checkpoint.listing import listing, table
    from meap_megatron.errors import UserError

    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", fix="name the `save` folder of a run")
    found = listing(folder)
    print(json.dumps(found) if args.json else table(found))
    if not found["checkpoints"]:
        raise UserError(f"{folder} holds no checkpoint (iter_NNNNNNN)", fix="name the `save` folder of a run")
    if found["would_load"] is None:
        raise UserError(
            f"no checkpoint in {folder} can be loaded", fix="put a good copy there, or start the run again"
        )
    return 0
