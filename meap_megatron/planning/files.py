"""What `meap plan --out` writes: a recipe with the chosen layout, and the batch script that runs it."""

import math
import os
import shlex
from pathlib import Path
from typing import Any

import yaml

from meap_megatron.atomic import disk_errors, replace_text
from meap_megatron.errors import UserError
from meap_megatron.launch.hybrid import CUTS
from meap_megatron.layer_pattern import CUT
from meap_megatron.planning.search import Plan
from meap_megatron.shipped import HOME

MANAGED = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "sequence_parallel",
    "micro_batch_size",
    "use_distributed_optimizer",
    "num_virtual_stages_per_pipeline_rank",
    "num_layers_per_virtual_pipeline_stage",
    "decoder_first_pipeline_num_layers",
    "decoder_last_pipeline_num_layers",
    "recompute_granularity",
    "recompute_modules",
    "recompute_method",
    "recompute_num_layers",
)
"""Settings that a plan decides; a recipe's value that the layout lacks is taken back with null."""
LONGEST = 24
"""Hours asked of SLURM at most; the job is requeued until it is finished."""

SCRIPT = """#!/bin/bash
# {what}
# Written by `meap plan`: {sizes}; an estimate of {estimate}.
#
#   sbatch {script} [key=value ...]
#
# The arguments are those of `meap train`. MEAP_HOME is the folder with examples/slurm (a checkout, or where
# `meap init --examples` was called); examples/slurm/common.sh lists what else the environment says.
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --gpus-per-node={tasks}
#SBATCH --cpus-per-task=8
#SBATCH --time={hours:02d}:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out

# SLURM runs a copy of this script from a folder of its own: its neighbours are found from where it was submitted.
MEAP_HOME=${{MEAP_HOME:-$SLURM_SUBMIT_DIR}}
[[ -d $MEAP_HOME/examples/slurm ]] || MEAP_HOME={home}
for part in common.sh training.sh; do
    # shellcheck source=/dev/null
    source "$MEAP_HOME/examples/slurm/$part" || {{
        echo "meap: error: submit from the folder with examples/slurm, or set MEAP_HOME to it (now $MEAP_HOME)" >&2
        exit 2
    }}
done

train_until_done {arguments} "$@"
"""


def write(plan: Plan, folder: Path, *, overrides: list[str], node: int, sizes: str, overwrite: bool) -> list[Path]:
    """Write FOLDER/plan.yaml and FOLDER/plan.sbatch.

    Args:
        folder: made if it is not there.
        overrides: key=value that were given to the planner; they are in the script too.
        sizes: the layout on one line, for the script's head.
        overwrite: replace files of an earlier plan.

    Raises:
        UserError: a file is there already.
        RunError: the folder cannot be written.
    """
    texts = {
        folder / "plan.yaml": recipe_text(plan, folder),
        folder / "plan.sbatch": script_text(plan, folder, overrides=overrides, node=node, sizes=sizes),
    }
    there = [str(path) for path in texts if path.exists()]
    if there and not overwrite:
        raise UserError(f"{' and '.join(there)} exists already", fix="choose another --out, or say --overwrite")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        replace_text(path, text)
    return list(texts)


def check_overrides(overrides: list[str]) -> None:
    """Refuse overrides of what a plan decides: in the batch script they would come after it."""
    for override in overrides:
        name = override.partition("=")[0].replace("-", "_")
        if name == "layout" or (name in MANAGED and name != "use_distributed_optimizer"):
            raise UserError(
                f"{override}: a plan chooses this itself; the recipe's own layout is listed beside it",
                fix="leave it out",
            )


def settings_of(plan: Plan) -> dict[str, Any]:
    """Return the settings that the plan puts on top of the recipe; None takes one of the recipe's back."""
    chosen: dict[str, Any] = dict(plan.layout.settings())
    given = plan.job.settings
    if plan.job.pattern is not None:
        chosen = with_pattern(chosen, plan)
    taken_back = {name: None for name in MANAGED if given.get(name) is not None and name not in chosen}
    settings = {**chosen, **taken_back}
    if not given.get("bf16"):
        settings["precision"] = "bf16"
    if given.get("device") == "cpu":
        settings["device"] = "cuda"
    return settings


def with_pattern(chosen: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return a layout's settings for a hybrid model: it is cut by its pattern, whose layers are counted one by one."""
    pattern, layout = plan.job.pattern or "", plan.layout
    size = len(pattern) // (layout.pipeline * layout.virtual)
    cut = CUT.join(pattern[begin : begin + size] for begin in range(0, len(pattern), size))
    kept = {name: value for name, value in chosen.items() if name not in CUTS}
    if "recompute_num_layers" in kept:
        kept["recompute_num_layers"] = plan.model.sublayers * kept["recompute_num_layers"]
    return kept | {"hybrid_layer_pattern": cut}


def recipe_text(plan: Plan, folder: Path) -> str:
    """Return a recipe that extends the planned one."""
    base = os.path.relpath(plan.job.recipe.path.resolve(), folder.resolve())
    head = {"description": f"{plan.job.recipe.path.name} on {plan.layout.gpus} x {plan.gpu.name}", "extends": base}
    text = yaml.safe_dump(head, sort_keys=False, width=1000)
    return text + yaml.safe_dump({"plan": settings_of(plan)}, sort_keys=False, width=1000)


def script_text(plan: Plan, folder: Path, *, overrides: list[str], node: int, sizes: str) -> str:
    """Return the batch script, in the manner of examples/slurm/pretrain.sbatch.

    The time asked for is the estimate with a quarter on top, in whole hours, and at most a day.
    """
    recipe = plan.job.recipe
    save = recipe.get("save")
    arguments = [str(folder / "plan.yaml"), *overrides]
    if save and not any(override.startswith("save=") for override in overrides):
        arguments.append(f"save={save}")
    hours = LONGEST if plan.days is None else min(LONGEST, max(1, math.ceil(plan.days * 24 * 1.25)))
    estimate = "unknown length" if plan.days is None else f"{plan.days * 24:.1f} h"
    return SCRIPT.format(
        what=f"{recipe.path.stem} on {plan.layout.gpus} x {plan.gpu.name}, one task per GPU.",
        sizes=sizes,
        estimate=estimate,
        home=shlex.quote(str(HOME)),
        script=shlex.quote(str(folder / "plan.sbatch")),
        name=f"meap-{recipe.path.stem}",
        nodes=max(1, plan.layout.gpus // node),
        tasks=min(node, plan.layout.gpus),
        hours=hours,
        arguments=shlex.join(arguments),
    )
