"""A recipe: a YAML file whose keys are Megatron's flag names in snake_case, grouped for reading.

    description: one line
    extends: other.yaml          # its settings first, this file's on top
    model:                       # group names are free
      num_layers: 12
    data:
      data_path: [data/c4]
    run:
      save: runs/my_run
      meap_mask_ratio: 0.15

`load` flattens the groups and applies `key=value` overrides; `Recipe.command_line` checks every key against the flags that
Megatron's own parser declares (`flags`) and returns the words of the command line.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meap_megatron.errors import UserError
from meap_megatron.training.flags import Flag

LAUNCH_KEYS = {"device": "auto, cpu or cuda", "nproc": "processes on this machine (0: one per GPU, 1 on a CPU)"}
"""Keys that are not Megatron's: they say where and how to start."""

AT_LEAST_ONE = (
    "train_iters micro_batch_size global_batch_size seq_length num_layers hidden_size num_attention_heads "
    "num_query_groups ffn_hidden_size save_interval eval_interval log_interval tensor_model_parallel_size "
    "pipeline_model_parallel_size context_parallel_size nproc"
).split()
"""Keys whose value must be at least 1 where it is given (nproc: at least 0)."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting and where it was written."""

    value: Any
    origin: str
    """"FILE:LINE" or "override"."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a run, by key."""

    path: Path
    settings: dict[str, Setting]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting's value."""
        return self.settings[key].value if key in self.settings else default

    def command_line(self, flags: dict[str, Flag]) -> list[str]:
        """Return Megatron's command line for this recipe.

        Raises:
            UserError: an unknown key (the nearest name is given), a value of the wrong type, or one that breaks a rule.
        """
        words: list[str] = []
        for key, setting in self.settings.items():
            if key in LAUNCH_KEYS:
                check_rule(key, setting)
                continue
            if key not in flags:
                near = difflib.get_close_matches(key, [*flags, *LAUNCH_KEYS], n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise UserError(f"{setting.origin}: unknown key '{key}'{hint}")
            check_rule(key, setting)
            words += flags[key].words(setting.value, origin=setting.origin)
        return words


def check_rule(key: str, setting: Setting) -> None:
    """Refuse counts below one and ratios outside [0, 1), before anything heavy is imported."""
    if key == "meap_mask_ratio" and isinstance(setting.value, int | float) and not 0 <= setting.value < 1:
        raise UserError(f"{setting.origin}: meap_mask_ratio={setting.value} must be in [0, 1); the paper uses 0.15")
    if key == "nproc" and (not isinstance(setting.value, int) or isinstance(setting.value, bool)):
        raise UserError(f"{setting.origin}: nproc={setting.value!r} must be a whole number")
    if key == "lr" and isinstance(setting.value, int | float) and not setting.value > 0:
        raise UserError(f"{setting.origin}: lr={setting.value} must be above 0")
    least = 0 if key == "nproc" else 1
    if key in AT_LEAST_ONE and isinstance(setting.value, int | float) and setting.value < least:
        raise UserError(f"{setting.origin}: {key}={setting.value} must be at least {least}")


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and what it extends, and apply overrides.

    Args:
        path: of the YAML file.
        overrides: words of the form key=value; the value is read as YAML.

    Raises:
        UserError: the file is missing or is not a recipe; an override is not key=value.
    """
    settings = read_settings(Path(path), seen=())
    for word in overrides or []:
        key, equals, text = word.partition("=")
        if not equals or not key.replace("-", "_").isidentifier():
            raise UserError(f"override '{word}' is not of the form key=value, for example train_iters=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"override '{word}': {text!r} is not a YAML value ({error})") from None
        settings[key.replace("-", "_")] = Setting(value=value, origin=f"override {word}")
    return Recipe(path=Path(path), settings=settings)


def read_settings(path: Path, seen: tuple[Path, ...]) -> dict[str, Setting]:
    """Return the flattened settings of one file and of the files it extends; `seen` guards against a circle."""
    if path.resolve() in seen:
        raise UserError(f"{path}: 'extends' goes round in a circle: {' -> '.join(map(str, (*seen, path.resolve())))}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror}; recipes stand in examples/recipes") from None
    except UnicodeDecodeError:
        raise UserError(f"recipe {path} is not UTF-8 text") from None
    try:
        root = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: a recipe is a mapping of groups to settings, for example 'model:' and below it keys")
    settings: dict[str, Setting] = {}
    own: dict[str, Setting] = {}
    for key_node, value_node in root.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key == "description":
            continue
        if key == "extends":
            settings = read_settings(path.parent / str(value_node.value), (*seen, path.resolve()))
        elif isinstance(value_node, yaml.MappingNode):
            for inner_key, inner_value in value_node.value:
                add_setting(own, path, str(inner_key.value), inner_key.start_mark.line + 1, inner_value)
        else:
            add_setting(own, path, key, line, value_node)
    return settings | own


def add_setting(settings: dict[str, Setting], path: Path, key: str, line: int, node: yaml.Node) -> None:
    """Put one setting in, refusing a key that the same file holds twice."""
    if key in settings:
        raise UserError(f"{path}:{line}: key '{key}' stands here and at {settings[key].origin}; keep one")
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise UserError(f"{path}:{line}: cannot read the value of '{key}': {error}") from None
    settings[key] = Setting(value=value, origin=f"{path}:{line}")
