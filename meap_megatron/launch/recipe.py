"""A recipe: a YAML file whose keys are Megatron's flag names in snake_case, grouped for reading.

    description: one line
    extends: other.yaml          # its settings first, this file's on top; of a list, later files win
    model:                       # group names are free
      num_layers: 12
    data:
      data_path: [data/c4]
    precision: bf16              # or fp32, fp8-..., mxfp8: see `precision`
    model: hybrid                # or gpt: see `hybrid`
    run:
      save: runs/my_run
      meap_mask_ratio: 0.15
    layouts:                     # GPUs -> settings; layout=64 puts those of 64 GPUs on top
      64: {tensor_model_parallel_size: 2, micro_batch_size: 4}

`load` flattens the groups and applies the layout and `key=value` overrides; `Recipe.command_line` checks every key against
the flags that Megatron's own parser declares (`flags`) and returns the arguments of the command line.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from meap_megatron.errors import UserError
from meap_megatron.launch import hybrid, limits, precision
from meap_megatron.launch.blend import DATA_KEYS, entries_of
from meap_megatron.launch.flags import Flag
from meap_megatron.shipped import COPY

LAUNCH_KEYS = {"device": "auto, cpu or cuda", "nproc": "processes on this machine (0: one per GPU, 1 on a CPU)"}
"""Keys that are not Megatron's: they say where and how to start."""

SHORT_KEYS = ("precision", "layout", "model")
"""Keys that mean several of Megatron's."""


class Loader(yaml.SafeLoader):
    """YAML without the base-60 numbers of YAML 1.1, in which the range of ratios 0:0.5 is the number 0.5."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
        """Return a whole number, or the text where that has a colon."""
        return node.value if ":" in node.value else super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> Any:
        """Return a number, or the text where that has a colon."""
        return node.value if ":" in node.value else super().construct_yaml_float(node)


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting and where it was written."""

    value: Any
    origin: str
    """"FILE:LINE" or "override"."""


OTHER_NAMES = {
    "learning_rate": "lr",
    "max_steps": "train_iters",
    "num_epochs": "meap_epochs",
    "num_train_epochs": "meap_epochs",
    "batch_size": "global_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "max_seq_length": "seq_length",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "num_key_value_heads": "num_query_groups",
    "rope_theta": "rotary_base",
    "output_dir": "save",
    "mask_ratio": "meap_mask_ratio",
}
"""Names of the same settings in other trainers -> Megatron's."""

Layouts = dict[str, dict[str, Setting]]
"""Number of GPUs -> settings."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a run, by key."""

    path: Path
    settings: dict[str, Setting]
    layouts: Layouts = field(default_factory=dict)
    """What `layout` may put on top of the recipe's settings."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting's value."""
        return self.settings[key].value if key in self.settings else default

    def command_line(self, flags: dict[str, Flag]) -> list[str]:
        """Return Megatron's command line for this recipe.

        Raises:
            UserError: an unknown key (the nearest name is given), a value of the wrong type, or one that breaks a rule.
        """
        argv: list[str] = []
        settings = self.resolved()
        for key, setting in settings.items():
            if key in LAUNCH_KEYS:
                check_rule(key, setting)
                continue
            if key not in flags:
                # Names of other trainers first: none of them resembles Megatron's name.
                names_of_others = difflib.get_close_matches(key, OTHER_NAMES, n=1, cutoff=0.8)
                near = [OTHER_NAMES[found] for found in names_of_others]
                near = near or difflib.get_close_matches(key, [*flags, *LAUNCH_KEYS, *SHORT_KEYS], n=1)
                hint = f"did you mean '{near[0]}'?" if near else None
                raise UserError(f"{setting.origin}: unknown key '{key}'", fix=hint)
            check_rule(key, setting)
            value = entries_of(setting.value) if key in DATA_KEYS and setting.value is not None else setting.value
            argv += flags[key].arguments(value, origin=setting.origin)
        precision.check({key: setting.value for key, setting in settings.items()})
        return argv

    def resolved(self) -> dict[str, Setting]:
        """Return all settings under Megatron's names, with what `precision` and `model` mean in their place.

        Raises:
            UserError: an unknown precision or model, or one that other settings contradict.
        """
        settings = {key: setting for key, setting in self.settings.items() if key not in ("precision", "model")}
        for key, settings_for in (("precision", precision.settings_for), ("model", hybrid.settings_for)):
            short = self.settings.get(key)
            if short is None or short.value is None:
                continue
            given = {name: setting.value for name, setting in settings.items()}
            added = settings_for(short.value, given, origin=short.origin)
            settings |= {name: Setting(value=value, origin=short.origin) for name, value in added.items()}
        return settings


def check_rule(key: str, setting: Setting) -> None:
    """Refuse numbers out of their range, before anything heavy is imported."""
    if key == "nproc" and (not isinstance(setting.value, int) or isinstance(setting.value, bool)):
        raise UserError(f"{setting.origin}: nproc={setting.value!r} must be a whole number")
    if (rule := limits.broken(key, setting.value)) is not None:
        raise UserError(f"{setting.origin}: {rule}")


def load(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and what it extends, and apply overrides.

    Args:
        overrides: of the form key=value; the value is read as YAML.

    Raises:
        UserError: the file is missing or is not a recipe; an override is not key=value.
    """
    settings, layouts = read_settings(Path(path))
    given: dict[str, Setting] = {}
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key.replace("-", "_").isidentifier():
            raise UserError(f"override '{override}' is not of the form key=value, for example train_iters=100")
        try:
            # A layer pattern begins with the sign of a YAML alias, which no override can have.
            value = text if text.startswith("*") else yaml.load(text, Loader)
        except yaml.reader.ReaderError:
            value = text  # a path that is not UTF-8
        except yaml.YAMLError as error:
            raise UserError(f"override '{override}': {text!r} is not a YAML value ({error})") from None
        given[key.replace("-", "_")] = Setting(value=value, origin=f"override {override}")
    layout = (settings | given).get("layout", Setting(value=None, origin=""))
    chosen = settings_of_layout(layout, layouts, path=Path(path))
    settings = {key: setting for key, setting in (settings | chosen | given).items() if key != "layout"}
    return Recipe(path=Path(path), settings=settings, layouts=layouts)


def settings_of_layout(layout: Setting, layouts: Layouts, *, path: Path) -> dict[str, Setting]:
    """Return the settings of the layout that a recipe or an override names; none for None.

    Raises:
        UserError: the recipe has no layout of that name.
    """
    if layout.value is None:
        return {}
    if str(layout.value) not in layouts:
        have = f"it has those for {', '.join(layouts)} GPUs" if layouts else "it has none"
        raise UserError(f"{layout.origin}: {path} has no layout '{layout.value}'; {have}")
    return layouts[str(layout.value)]


def read_settings(path: Path, via: tuple[tuple[Path, str], ...] = ()) -> tuple[dict[str, Setting], Layouts]:
    """Return the flattened settings and the layouts of one file and of the files it extends.

    A file's own `layouts` take the place of those of the file it extends.

    Args:
        via: the files that led here, outermost first, each with the "FILE:LINE" of the `extends` that names the next one.

    Raises:
        UserError: it is missing or is not a recipe; it extends itself; it names a file or a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read recipe {path}: {error.strerror}", fix=where_it_may_be(path, via)) from None
    except UnicodeDecodeError:
        raise UserError(f"recipe {path} is not UTF-8 text") from None
    try:
        root = yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        quotes = "; a value that begins with * needs quotes" if "alias" in str(getattr(error, "context", "")) else ""
        raise UserError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}{quotes}") from None
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: a recipe is a mapping of groups to settings, for example 'model:' and below it keys")
    settings: dict[str, Setting] = {}
    own: dict[str, Setting] = {}
    inherited: Layouts = {}
    layouts: Layouts = {}
    first: dict[str, int] = {}
    for key_node, value_node in root.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in ("extends", "layouts") and first.setdefault(key, line) != line:
            raise UserError(f"{path}:{line}: duplicate key '{key}' (first at {path}:{first[key]})", fix="keep one")
        if key == "description":
            continue
        if key == "extends":
            for base_path, place in extended(path, value_node, via):
                base, layouts_of_base = read_settings(base_path, (*via, (path, place)))
                settings, inherited = settings | base, layouts_of_base or inherited
        elif key == "layouts":
            layouts = read_layouts(path, line, value_node)
        elif isinstance(value_node, yaml.MappingNode):
            for inner_key, inner_value in value_node.value:
                add_setting(own, path, str(inner_key.value), inner_key.start_mark.line + 1, inner_value)
        else:
            add_setting(own, path, key, line, value_node)
    return settings | own, layouts or inherited


def where_it_may_be(path: Path, via: tuple[tuple[Path, str], ...]) -> str:
    """Return what to do about a recipe that is not there, with the file that names it."""
    if not via:
        return f"give the path of one; `meap init` writes one for your data, {COPY}"
    what = "the folder of the import was moved" if path.name == "model.yaml" else "the file was moved"
    return f"{via[-1][1]} extends it: if {what}, correct its path there"


def extended(path: Path, node: yaml.Node, via: tuple[tuple[Path, str], ...]) -> list[tuple[Path, str]]:
    """Return the files that `extends` names, one or a list, each with the "FILE:LINE" where it does.

    Raises:
        UserError: it is neither; a file is named twice, or leads back to itself.
    """
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not nodes or not all(isinstance(one, yaml.ScalarNode) and one.value for one in nodes):
        raise UserError(
            f"{path}:{node.start_mark.line + 1}: extends takes a file or a list of files, for example "
            "extends: [checkpoints/mine/model.yaml, base/sft.yaml]"
        )
    found: dict[Path, tuple[Path, str]] = {}
    chain = [*(outer for outer, _ in via), path]
    for one in nodes:
        name, place = path.parent / str(one.value), f"{path}:{one.start_mark.line + 1}"
        if (file := name.resolve()) in [outer.resolve() for outer in chain]:
            circle = " -> ".join(str(outer) for outer in [*chain, name])
            raise UserError(f"{place}: circular 'extends': {circle}", fix=f"remove {one.value} here")
        if file in found:
            raise UserError(f"{place}: 'extends' names {one.value} twice (first at {found[file][1]})", fix="keep one")
        found[file] = (name, place)
    return list(found.values())


def read_layouts(path: Path, line: int, node: yaml.Node) -> Layouts:
    """Return the table of layouts: number of GPUs -> settings.

    Raises:
        UserError: it is not a mapping of numbers to settings.
    """
    layouts: Layouts = {}
    rows = node.value if isinstance(node, yaml.MappingNode) else []
    for gpus, settings in rows:
        if not str(gpus.value).isdecimal() or not isinstance(settings, yaml.MappingNode):
            rows = []
            break
        table: dict[str, Setting] = {}
        for key, value in settings.value:
            add_setting(table, path, str(key.value), key.start_mark.line + 1, value)
        layouts[str(gpus.value)] = table
    if not rows:
        raise UserError(
            f"{path}:{line}: layouts maps a number of GPUs to settings, for example 64: {{micro_batch_size: 4}}"
        )
    return layouts


def add_setting(settings: dict[str, Setting], path: Path, key: str, line: int, node: yaml.Node) -> None:
    """Put one setting in, refusing a key that the same file holds twice."""
    if key in settings:
        raise UserError(f"{path}:{line}: duplicate key '{key}' (first at {settings[key].origin})", fix="keep one")
    loader = Loader("")
    try:
        value = loader.construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise UserError(f"{path}:{line}: cannot read the value of '{key}': {error}") from None
    if key == "pretrained_checkpoint" and value == ".":
        value = str(path.parent.resolve())  # as an import writes it: its folder may be moved
    settings[key] = Setting(value=value, origin=f"{path}:{line}")
