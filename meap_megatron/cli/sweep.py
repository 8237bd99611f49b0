"""`meap sweep`: the arms of an ablation, one after the other or as SLURM jobs."""

import argparse
import shlex

HELP = """Run the arms of a sweep: one recipe, a few settings changed in each.

  meap sweep examples/sweeps/pretrain_ratio.yaml data_path=data/c4           one arm after the other, here
  meap sweep SWEEP.yaml --dry-run                                            how far each arm is, and its command
  meap sweep SWEEP.yaml layout=64 --slurm                                    the sbatch commands that run them side by side

Arms that are finished are skipped, others continue where they stopped. `meap sweep table SWEEP.yaml` shows the results."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("sweep", help="a YAML file: `meap init --examples` copies ours")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all arms")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the arms and exit")
    what.add_argument("--slurm", action="store_true", help="print one sbatch command per arm and exit")


def run(args: argparse.Namespace) -> int:
    """Check all arms before the first one starts, then run or print them."""
    from meap_megatron.launch import recipe as recipes
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.sweep import plan, run

    sweep = plan.load(args.sweep, args.overrides)
    flags = read_flags()
    loaded = {arm.name: recipes.load(sweep.recipe, arm.overrides) for arm in sweep.arms}
    for recipe in loaded.values():
        recipe.command_line(flags)
    finished = {arm.name for arm in sweep.arms if plan.is_finished(arm, loaded[arm.name])}
    if args.slurm:
        layouts = [override.removeprefix("layout=") for override in args.overrides if override.startswith("layout=")]
        gpus = int(layouts[-1]) if layouts and layouts[-1].isdecimal() else run.GPUS_PER_NODE
        for arm in sweep.arms:
            script = "sft" if loaded[arm.name].get("meap_epochs") else "pretrain"
            print(run.slurm_command(sweep, arm, script=script, gpus=gpus))
        return 0
    if args.dry_run:
        for arm in sweep.arms:
            done, _ = plan.steps_done(arm.save)
            state = "finished" if arm.name in finished else f"continues at step {done}" if done else "new"
            print(f"# {arm.name}: {state}\nmeap {shlex.join(run.train_command(sweep, arm))}")
        return 0
    return run.run_arms(sweep, finished=finished)
