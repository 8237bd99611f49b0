"""A sweep: one recipe, and arms that override a few of its settings.

    description: mask ratios of Table 9
    recipe: ../recipes/pretrain/llama_1.1b_ntp.yaml   # relative to this file
    save: runs/sweeps/pretrain_ratio                  # every arm has a folder of its name in it
    settings: {train_iters: 40000}                    # of all arms; may be left out
    arms:
      ntp: {meap_mask_ratio: 0.0}
      "0.15": {meap_mask_ratio: 0.15}
    tables: []                                        # see `table`; may be left out

An arm is exactly `meap train RECIPE key=value... save=SAVE/ARM`, so a stopped run continues when it is started again.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meap_megatron.errors import UserError
from meap_megatron.launch.recipe import Loader, Recipe
from meap_megatron.shipped import COPY
from meap_megatron.training.metrics import read_metrics

KEYS = ("description", "recipe", "save", "settings", "arms", "tables")

SAME_RUN = (
    "num_layers hidden_size ffn_hidden_size seq_length global_batch_size lr min_lr seed data_path "
    "meap_mask_ratio meap_mask_strategy meap_span_length meap_mask_seed meap_corruption meap_clean_fraction "
    "meap_skip_first meap_min_document_tokens meap_loss_on meap_pair meap_pair_weight"
).split()
"""Settings that a run records and that may not change when it continues; number of steps, layout and precision may."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of a sweep."""

    name: str
    save: Path
    """Folder of the run."""
    overrides: list[str]
    """Words key=value for `meap train`."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, read and checked."""

    path: Path
    recipe: Path
    arms: list[Arm]
    tables: list[dict[str, Any]]
    """As in the file; `table.read_table` checks them."""


def load(path: str | Path, overrides: list[str]) -> Sweep:
    """Read a sweep file.

    Args:
        overrides: key=value for all arms; `save=FOLDER` replaces the sweep's folder.

    Raises:
        UserError: the file cannot be read or is not a sweep; the message names the file and the key.
    """
    path = Path(path)
    root = read_mapping(path)
    for key in root:
        if key not in KEYS:
            raise UserError(f"{path}: unknown key '{key}'; a sweep has {', '.join(KEYS)}")
    for key in ("recipe", "save"):
        if not isinstance(root.get(key), str):
            raise UserError(f"{path}: '{key}' is missing; it is a path")
    arms, common = root.get("arms"), root.get("settings") or {}
    if not isinstance(arms, dict) or not arms or not isinstance(common, dict):
        raise UserError(f"{path}: 'arms' maps names to settings, for example 'ntp: {{meap_mask_ratio: 0.0}}'")
    save = Path(root["save"])
    for override in overrides:
        if override.startswith("save="):
            save = Path(override.removeprefix("save="))
    rest = [override for override in overrides if not override.startswith("save=")]
    return Sweep(
        path=path,
        recipe=path.parent / root["recipe"],
        arms=[read_arm(path, str(name), common, settings, save=save, rest=rest) for name, settings in arms.items()],
        tables=root.get("tables") or [],
    )


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        UserError: it cannot be read or holds something else.
    """
    try:
        root = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UserError(f"cannot read sweep {path}: {error.strerror}", fix=f"give the path of one; {COPY}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(root, dict):
        raise UserError(f"{path}: a sweep is a mapping with {', '.join(KEYS)}")
    return root


def read_arm(path: Path, name: str, common: dict[str, Any], settings: Any, *, save: Path, rest: list[str]) -> Arm:
    """Return one arm; later settings win, so those of the command line come last.

    Raises:
        UserError: its name is not a folder name, or its settings are not a mapping.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{path}: arm '{name}' must be a folder name of letters, digits, '.', '_' and '-'")
    if not isinstance(settings, dict) or "save" in settings:
        raise UserError(f"{path}: arm '{name}' is a mapping of settings, without save, which the sweep gives")
    own = [f"{key}={json.dumps(value)}" for key, value in (common | settings).items()]
    return Arm(name=name, save=save / name, overrides=[*own, *rest, f"save={save / name}"])


def steps_done(save: Path) -> tuple[int, bool]:
    """Return the last step that a run reports, and whether it ended there by itself (after its last checkpoint)."""
    path = save / "metrics.jsonl"
    if not path.exists():
        return 0, False
    records = read_metrics(path)
    steps = [int(record.get("step", 0)) for record in records]
    return max(steps, default=0), bool(records) and records[-1]["event"] == "end"


def is_finished(arm: Arm, recipe: Recipe) -> bool:
    """Tell whether a run has done the recipe's steps; one that counts epochs is asked by starting it.

    Raises:
        UserError: the folder holds a run with other settings.
    """
    check_same_run(arm, recipe)
    wanted = recipe.get("train_iters")
    done, ended = steps_done(arm.save)
    return wanted is not None and ended and done >= int(wanted)


def check_same_run(arm: Arm, recipe: Recipe) -> None:
    """Refuse to continue a run whose recorded settings are not those of the arm."""
    path = arm.save / "metrics.jsonl"
    starts = [record for record in read_metrics(path) if record["event"] == "start"] if path.exists() else []
    recorded = starts[-1].get("run", {}) if starts else {}
    for name in SAME_RUN:
        wanted = recipe.get(name)
        if wanted is None or recorded.get(name) is None:
            continue
        if comparable(recorded[name]) != comparable(wanted):
            raise UserError(
                f"{arm.save} holds a run with {name}={recorded[name]}, and arm '{arm.name}' says {wanted}",
                fix="give the sweep another folder (save=FOLDER), or remove that one",
            )


def comparable(value: Any) -> list[float | str]:
    """Return a setting so that what a recipe says equals what Megatron made of it: "1e-3" and 0.001, "a" and ["a"]."""
    result: list[float | str] = []
    for item in value if isinstance(value, list) else [value]:
        try:
            result.append(float(item))
        except (TypeError, ValueError):
            result.append(str(item))
    return result
