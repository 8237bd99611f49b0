"""`meap cache`: build the sample index of a run before the job, in one process and without a GPU."""

import argparse
import logging
import sys
from typing import Any

from meap_megatron.formats import aligned
from meap_megatron.terminal import is_verbose

HELP = """Build the sample index of a recipe before the job.

  meap cache examples/recipes/tiny_cpu_meap.yaml data_path=data/mine
  meap cache RECIPE.yaml data_path=data/c4 data_cache_path=data/cache

Give the recipe and the overrides of the training run: which samples it reads follows from its data, its seed, its
sequence length, its number of steps and its batch size, and not from its masks or from the number of its processes. One
process on any machine that sees the data is enough; the run then finds the index and writes nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", help="a YAML file: `meap init` writes one, `meap init --examples` copies ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's")


def run(args: argparse.Namespace) -> int:
    """Build the index, or find it, and print what it holds."""
    from meap_megatron.launch import preflight
    from meap_megatron.launch import recipe as recipes
    from meap_megatron.launch.blend import data_prefixes
    from meap_megatron.launch.data_flags import check_named_data, data_flags
    from meap_megatron.launch.data_sidecars import read_sidecars
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.launch.named_settings import of_recipe

    flags = read_flags()
    recipe = recipes.load(args.recipe, args.overrides)
    settings = of_recipe(recipe.resolved(), flags)
    argv = preflight.complete(
        recipe.command_line(flags), settings, world=None, show=lambda line: print(f"note: {line}", file=sys.stderr)
    )
    check_named_data(settings)
    argv += data_flags(argv)
    if "--mock-data" in argv:
        print("mock data needs no index")
        return 0
    from meap_megatron.training import index_cache, platform
    from meap_megatron.training.dataset_settings import index_request

    platform.prepare("cpu")
    logging.getLogger("megatron").setLevel(logging.INFO if is_verbose() else logging.WARNING)
    parsed = index_cache.data_settings(argv)
    entry = index_cache.obtain(index_request(parsed, read_sidecars(data_prefixes(parsed))), sys.stderr)
    print("\n".join(report(entry)))
    return 0


def report(entry: Any) -> list[str]:
    """Return the lines that describe a `index_folder.Entry`."""
    from meap_megatron.errors import counted

    rows = [("split", "samples", "epochs", "data")]
    for source in entry.facts["sources"]:
        rows.append((source["split"], f"{source['samples']:,}", f"{source['epochs']:.2f}", source["prefix"]))
    how = f"built in {entry.seconds:.1f} s" if entry.built else f"is there (it was built in {entry.seconds:.1f} s)"
    return [
        *aligned(rows, left=(0, 3)),
        f"{how}: {counted(len(entry.files), 'file')}, {entry.num_bytes:,} bytes, in {entry.path}",
    ]
