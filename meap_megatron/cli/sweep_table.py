"""`meap sweep table`: the results of a sweep in the layout of the paper's tables."""

import argparse
from pathlib import Path

HELP = """Print the tables of a sweep as Markdown, with the paper's numbers beside ours.

  meap sweep table examples/sweeps/pretrain_ratio.yaml                       results below each run's folder
  meap sweep table examples/sweeps/pretrain_ratio.yaml --results scores/     scores/ARM/*.json

Read are the JSON files of `meap evaluate --out FOLDER/ARM` and of lm-evaluation-harness; validation losses come from the
metrics.jsonl of the runs. Missing cells are dashes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("sweep", help="a YAML file: `meap init --examples` copies ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as given to `meap sweep`, for save=FOLDER")
    parser.add_argument(
        "--results", default=None, help="folder with one folder of results per arm (default: the runs)"
    )


def run(args: argparse.Namespace) -> int:
    """Read the results and print the tables."""
    from meap_megatron.errors import UserError
    from meap_megatron.shipped import COPY
    from meap_megatron.sweep import plan
    from meap_megatron.sweep.results import read_scores, validation_loss
    from meap_megatron.sweep.table import read_table, render

    sweep = plan.load(args.sweep, args.overrides)
    if not sweep.tables:
        raise UserError(f"{sweep.path} describes no tables", fix=f"add them as in examples/sweeps; {COPY}")
    tables = [read_table(table, origin=str(sweep.path)) for table in sweep.tables]
    folders = {arm.name: Path(args.results) / arm.name if args.results else arm.save for arm in sweep.arms}
    if not any(folder.is_dir() for folder in folders.values()):
        raise UserError(
            f"no results: none of {', '.join(map(str, folders.values()))} exists",
            fix="give --results FOLDER, in which every arm has a folder",
        )
    scores = {name: read_scores(folder) for name, folder in folders.items()}
    losses = {arm.name: validation_loss(arm.save) for arm in sweep.arms}
    print("\n\n".join(render(table, scores, losses) for table in tables))
    return 0
