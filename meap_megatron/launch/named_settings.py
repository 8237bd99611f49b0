"""The settings of a run by Megatron's names, from a recipe or from a command line, with the place where each was written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from meap_megatron.launch.flags import Flag, read_flags
from meap_megatron.launch.recipe import Setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that are given, and Megatron's defaults of the others."""

    table: Mapping[str, Setting]
    flags: Mapping[str, Flag] = field(default_factory=dict)
    """Of Megatron's parser and ours; without them, there are no defaults."""

    def get(self, name: str) -> Any:
        """Return a setting's value, None if it is not given."""
        return self.table[name].value if name in self.table else None

    def effective(self, name: str) -> Any:
        """Return a setting's value: as given, else Megatron's default."""
        value = self.get(name)
        return value if value is not None or name not in self.flags else self.flags[name].default

    def whole(self, name: str, default: int | None = None) -> int | None:
        """Return a setting as a whole number of at least 1, `default` if it is absent or none (its own check names that)."""
        number = self.number(name)
        return default if number is None or not number.is_integer() or number < 1 else int(number)

    def number(self, name: str, default: float | None = None) -> float | None:
        """Return a setting as a number, `default` if it is not given or is none (its own check names that)."""
        value = self.get(name)
        if isinstance(value, bool) or value is None:
            return default
        try:
            number = float(value)  # YAML reads 1e3 as text
        except (TypeError, ValueError):
            return default
        return number if math.isfinite(number) else default

    def on(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return self.get(name) is True

    def has(self, *names: str) -> bool:
        """Tell whether one of these is given."""
        return any(self.get(name) not in (None, False) for name in names)

    def where(self, name: str) -> str:
        """Return "FILE:LINE: " or "override ...: " for a setting that is written somewhere, "" for a default."""
        origin = self.table[name].origin if self.get(name) is not None else ""
        return f"{origin}: " if origin else ""

    def named(self, name: str) -> str:
        """Return "NAME=VALUE", as a recipe writes it."""
        value = self.get(name)
        if isinstance(value, bool):
            return f"{name}={str(value).lower()}"
        texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return f"{name}={' '.join(value) if texts else value}"

    def quoted(self, name: str) -> str:
        """Return "FILE:LINE: NAME=VALUE"."""
        return f"{self.where(name)}{self.named(name)}"

    def with_defaults(self, added: Mapping[str, Any]) -> "Settings":
        """Return the same settings with some that are not given filled in."""
        table = {name: Setting(value=value, origin="") for name, value in added.items()}
        return Settings(table={**table, **self.table}, flags=self.flags)

    def namespace(self) -> SimpleNamespace:
        """Return what Megatron's parser makes of the settings, before Megatron validates them; enumerations as names."""
        values = {flag.dest: flag.default for flag in self.flags.values()}
        for name, setting in self.table.items():
            flag = self.flags.get(name)
            if flag is None or setting.value is None:
                continue
            if flag.kind == "switch":
                if setting.value is True:
                    values[flag.dest] = flag.const
            elif flag.kind == "toggle":
                values[flag.dest] = setting.value
            else:
                values[flag.dest] = typed(setting.value, flag)
        return SimpleNamespace(**values)


def typed(value: Any, flag: Flag) -> Any:
    """Return a value as Megatron's parser would hold it."""
    if flag.kind == "many":
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if flag.type in ("int", "float"):
        try:
            return int(float(value)) if flag.type == "int" else float(value)
        except (TypeError, ValueError):
            return value
    return str(value)


def of_recipe(table: Mapping[str, Setting], flags: Mapping[str, Flag]) -> Settings:
    """Return the settings of a recipe; a second name of a setting becomes its first."""
    named = {(flags[name].name or name) if name in flags else name: setting for name, setting in table.items()}
    return Settings(table=named, flags=flags)


def of_command_line(argv: list[str]) -> Settings:
    """Return the settings of a command line of the installed Megatron."""
    return of_argv(argv, read_flags())


def of_argv(argv: list[str], flags: Mapping[str, Flag]) -> Settings:
    """Return the settings of a command line, as Megatron's parser reads it: the last of a repeated flag counts.

    Arguments that belong to no flag of the table are left out; Megatron's parser names them.
    """
    table: dict[str, Setting] = {}
    for position, argument in enumerate(argv):
        if not argument.startswith("--"):
            continue
        option, equals, text = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        off = name.startswith("no_") and name not in flags
        flag = flags.get(name.removeprefix("no_") if off else name)
        if flag is None or (off and flag.kind != "toggle"):
            continue
        value: Any
        if flag.kind in ("switch", "toggle"):
            value = not off
        else:
            following = [] if equals else values_after(argv, position)
            value = [text, *following] if equals else following
            if flag.kind != "many":
                value = value[0] if value else None
        table[flag.name or name] = Setting(value=value, origin="")
    return Settings(table=table, flags=flags)


def values_after(argv: list[str], position: int) -> list[str]:
    """Return the arguments between a flag and the next one; a negative number is a value."""
    values = []
    for argument in argv[position + 1 :]:
        if argument.startswith("--"):
            break
        values.append(argument)
    return values
