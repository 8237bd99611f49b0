"""`meap plan`: which layout of a recipe on so many GPUs, what it needs and how long it takes, by arithmetic."""

import argparse

HELP = """List the layouts of a recipe on N GPUs with memory, time and cost, choose one, and write it down.

  meap plan examples/recipes/pretrain/llama_1.1b_meap.yaml --gpus 64 --gpu h100
  meap plan RECIPE.yaml --gpus 32 --gpu a100 --memory 40 data_path=data/mine
  meap plan RECIPE.yaml --gpus 64 --gpu h100 --out plans/mine         writes plan.yaml and plan.sbatch
  sbatch plans/mine/plan.sbatch save=runs/mine

Layouts are TP x PP x CP x DP, micro-batch, interleaving and recomputation; the batch stays the recipe's. Needs no
GPU and does not import torch. All figures are estimates (docs/planning.md says how good they are); no run of this
project was timed on a GPU yet.

Exit status: 0; 2 if nothing fits or the input is wrong."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", help="a YAML file: `meap init` writes one, `meap init --examples` copies ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings on top of the recipe")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="GPUs of the job")
    parser.add_argument("--gpu", required=True, metavar="KIND", help="a100, h100, h200 or b200 (SXM, eight per node)")
    parser.add_argument("--memory", type=float, metavar="GB", help="memory of a GPU (default: as sold)")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--vocabulary", type=int, metavar="N", help="ids of the tokenizer, [MASK] included")
    parser.add_argument("--tokens", metavar="N", help="tokens to train, such as 40M or 200B (default: the recipe's)")
    parser.add_argument("--rows", type=int, default=10, metavar="N", help="layouts to list (default: 10)")
    parser.add_argument("--out", metavar="DIR", help="write plan.yaml (a recipe) and plan.sbatch into this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier plan")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Plan, print, and write."""
    import json
    from dataclasses import replace
    from pathlib import Path

    from meap_megatron.errors import UserError
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.planning import files, gpus, job, search
    from meap_megatron.planning import text as report

    gpu = gpus.find(args.gpu)
    for name in ("memory", "gpus_per_node", "vocabulary", "rows"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise UserError(f"--{name.replace('_', '-')} {value:g} must be more than 0")
    if args.memory is not None:
        gpu = replace(gpu, memory=args.memory * gpus.GB)
    files.check_overrides(args.overrides)
    total = None if args.tokens is None else parse_tokens(args.tokens)
    planned = job.read(args.recipe, args.overrides, vocabulary=args.vocabulary, tokens=total)
    planned.recipe.command_line(read_flags())  # refuses unknown keys and wrong values
    found = search.search(planned, gpu, gpus=args.gpus, node=args.gpus_per_node)
    written: list[Path] = []
    if args.out:
        written = files.write(
            found.best,
            Path(args.out),
            overrides=args.overrides,
            node=args.gpus_per_node,
            sizes=report.sizes(found.best),
            overwrite=args.overwrite,
        )
    if args.json:
        print(json.dumps({**report.as_json(found, rows=args.rows), "written": list(map(str, written))}, indent=1))
        return 0
    print(report.as_text(found, rows=args.rows))
    if written:
        print(f"\nwritten: {' and '.join(map(str, written))}\nsubmit:  sbatch {written[1]}")
    return 0


def parse_tokens(text: str) -> int:
    """Return a number of tokens such as 40M.

    Raises:
        UserError: it is none, or 0.
    """
    from meap_megatron.corpus.upsample import selection
    from meap_megatron.errors import UserError

    try:
        count = selection.parse_tokens(text)
    except UserError:
        count = 0
    if not count:
        raise UserError(f"--tokens {text!r}: expected a number of tokens such as 200B, 40M or 2000000")
    return count
