"""A recipe and a number of processes: the job that is rehearsed, if nothing shows at once that would stop it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import read_sidecar
from meap_megatron.launch import parallelism, preflight, rules
from meap_megatron.launch import recipe as recipes
from meap_megatron.launch.data_sidecars import named_prefixes
from meap_megatron.launch.fitted import fitted
from meap_megatron.launch.flags import Flag
from meap_megatron.launch.named_settings import Settings, of_command_line, of_recipe
from meap_megatron.launch.parallelism import Layout
from meap_megatron.launch.recipe import Recipe, Setting
from meap_megatron.rehearsal import preflight as inputs
from meap_megatron.rehearsal.preflight import Start

WRITERS = (
    "tensorboard_dir wandb_project wandb_entity wandb_exp_name wandb_save_dir meap_log meap_trace meap_metrics log_progress"
).split()
"""Settings by which a run writes from its first moment; a rehearsal goes without."""


@dataclass(frozen=True, kw_only=True)
class RehearsedJob:
    """What would be started, and what was found out about it without Megatron."""

    recipe: Recipe
    settings: Settings
    layout: Layout
    device: str
    """Where the job is to run: "cuda", or "cpu" if the recipe says so."""
    argv: list[str]
    """Megatron's command line of every rank, without `WRITERS`."""
    own_argv: list[str]
    """Those of them that are in no recipe: what follows from the data, and the device."""
    flags: dict[str, Flag]
    start: Start

    @property
    def prefixes(self) -> list[str]:
        """The dataset prefixes; none with mock data."""
        return list(dict.fromkeys(named_prefixes(of_command_line(self.argv))))

    @property
    def is_sft(self) -> bool:
        """Whether the data is for fine-tuning."""
        return any(read_sidecar(prefix).kind == "sft" for prefix in self.prefixes)

    def command_line(self, changes: dict[str, Any]) -> list[str]:
        """Return Megatron's command line with some settings changed (None: left out), without what follows from the data."""
        changed = {name: Setting(value=value, origin="rehearsal") for name, value in changes.items()}
        settings = {name: one for name, one in {**self.settings.table, **changed}.items() if one.value is not None}
        return replace(self.recipe, settings=settings).command_line(self.flags)

    def with_settings(self, changes: dict[str, Any]) -> "RehearsedJob":
        """Return the same job with some settings changed (None: left out)."""
        return replace(self, argv=[*self.command_line(changes), *self.own_argv])


def load(path: str | Path, overrides: list[str], *, world: int | None, flags: dict[str, Flag]) -> RehearsedJob:
    """Read a recipe as a job of `world` processes.

    Args:
        world: processes of the job; None: those that layout=N names.

    Raises:
        UserError: everything that shows before Megatron is imported, in one message.
    """
    recipe = recipes.load(path, overrides)
    recipe.command_line(flags)  # unknown keys, wrong types, unsafe precisions
    device = "cpu" if recipe.get("device") == "cpu" else "cuda"
    recipe, _ = fitted(recipe, device)
    given = of_recipe(recipe.resolved(), flags)
    settings = given.with_defaults(rules.defaults(given))
    changed, _ = preflight.without_evaluation(settings)
    off = {name: Setting(value=value, origin="") for name, value in changed.items()}
    settings = replace(settings, table={**settings.table, **off})
    sizes = parallelism.of_settings(settings, world=world or named_world(overrides))
    recipe = replace(recipe, settings=dict(settings.table))
    bare = {name: setting for name, setting in settings.table.items() if name not in WRITERS}
    argv = replace(recipe, settings=bare).command_line(flags)
    found = preflight.problems(settings, world=sizes.world)
    more: list[str] = []
    found += preflight.refusal(lambda: more.extend(inputs.of_data(argv)))
    found += inputs.of_tokenizer(settings) + inputs.of_folders(settings)
    start = inputs.of_checkpoints(settings, found)
    if found:
        raise preflight.joint(found, whom=f"this job of {sizes.world:,} processes")
    own = [*more, f"--meap-device={device}"]
    return RehearsedJob(
        recipe=recipe,
        settings=settings,
        layout=sizes,
        device=device,
        argv=[*argv, *own],
        own_argv=own,
        flags=flags,
        start=start,
    )


def named_world(overrides: list[str]) -> int:
    """Return the number of GPUs that an override layout=N names.

    Raises:
        UserError: there is none.
    """
    named = [override.partition("=")[2] for override in overrides if override.startswith("layout=")]
    if not named or not named[-1].isdecimal():
        raise UserError(
            "the number of processes of the job is not given", fix="give --world-size N, or layout=N of the recipe"
        )
    return int(named[-1])
