"""`meap train`: a recipe becomes Megatron's command line, and runs."""

import argparse
import atexit
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

HELP = """Train a recipe with Megatron's own trainer.

  meap train examples/recipes/tiny_cpu_meap.yaml data_path=data/mine save=runs/mine
  meap train RECIPE.yaml train_iters=200 --dry-run         print the command line, start nothing
  meap train RECIPE.yaml nproc=2 tensor_model_parallel_size=2

Keys are Megatron's flag names in snake_case. A run continues from the newest checkpoint in its `save` folder."""

TRAINER = "meap_megatron.training.pretrain"
"""The module that trains, started by name: torch is imported in the ranks only."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", help="a YAML file: `meap init` writes one, `meap init --examples` copies ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's")
    parser.add_argument("--nproc", type=int, default=None, help="processes on this machine (as nproc=N)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved command line and exit")


def run(args: argparse.Namespace) -> int:
    """Check the recipe, then print or start it."""
    from meap_megatron.launch import environment, preflight
    from meap_megatron.launch import recipe as recipes
    from meap_megatron.launch.data_flags import check_named_data
    from meap_megatron.launch.fitted import fitted
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.launch.launch import known_world, launch
    from meap_megatron.launch.named_settings import of_recipe
    from meap_megatron.launch.runtime import resolve_device
    from meap_megatron.terminal import is_verbose

    overrides = list(args.overrides)
    if args.nproc is not None:
        overrides.append(f"nproc={args.nproc}")
    recipe = recipes.load(args.recipe, overrides)
    flags = read_flags()
    argv = recipe.command_line(flags)  # unknown keys and wrong values, before torch is asked for the device
    settings = of_recipe(recipe.resolved(), flags)
    os.environ.update(environment.defaults(settings, os.environ))  # the answer starts the driver, which reads them
    nproc, device = int(recipe.get("nproc", 0) or 0), str(recipe.get("device", "auto"))
    world = known_world(nproc, device)
    argv = preflight.complete(argv, settings, world=world, show=lambda line: None)
    if not args.dry_run and known_world(0, "cpu") == 1:  # ranks of a job look together, and then say it once
        check_named_data(settings)
    recipe, notes = fitted(recipe, device if device != "auto" else None if args.dry_run else resolve_device(device))
    settings = of_recipe(recipe.resolved(), flags)
    argv = preflight.complete(recipe.command_line(flags), settings, world=world, show=notes.append)
    save = recipe.get("save")
    if save:
        if recipe.get("load") is None:
            # Starting again continues where the run stopped.
            argv.append(f"--load={save}")
        if recipe.get("tensorboard_dir") is None:
            argv.append(f"--tensorboard-dir={Path(save) / 'tensorboard'}")
        if not is_verbose() and recipe.get("meap_log") is None:
            argv.append(f"--meap-log={Path(save) / 'logs'}")
    own_log = not (save or is_verbose() or args.dry_run) and recipe.get("meap_log") is None
    if args.dry_run:
        print(shlex.join(["python", "-m", TRAINER, *argv]))
        return 0
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        for note in notes:
            print(f"note: {note}", flush=True)
    start = partial(launch, nproc=nproc, device=device, trainer=TRAINER)
    if own_log:
        return with_temporary_log(lambda log: start([*argv, f"--meap-log={log}"]))
    return start(argv)


def with_temporary_log(start: Callable[[str], int]) -> int:
    """Start a run without `save` with a folder for its logs; it is removed at the end, unless an error names it."""
    from meap_megatron.errors import RunError

    folder = tempfile.mkdtemp(prefix="meap-")
    # Registered before the run, and so done after it has sent the last words of libraries to the log.
    remove = atexit.register(partial(shutil.rmtree, folder, ignore_errors=True))
    try:
        status = start(folder)
    except RunError:
        atexit.unregister(remove)
        raise
    if status == RunError.exit_status:
        atexit.unregister(remove)
    return status
