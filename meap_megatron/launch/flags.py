"""The flags that Megatron's own parser and ours declare, as data, so that a recipe can be checked without importing torch.

The table is read from the real parser once per installed version and kept in the user's cache folder; importing Megatron
takes several seconds, reading the table a few milliseconds.
"""

import argparse
import functools
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from meap_megatron.atomic import replace_text
from meap_megatron.errors import RunError, UserError
from meap_megatron.launch import megatron_import, runtime
from meap_megatron.launch.arguments import add_meap_arguments


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One option of the command line."""

    option: str
    """As typed: "--num-layers"."""
    kind: str
    """"switch" (no value), "toggle" (--x / --no-x), "one" (one value) or "many"."""
    type: str
    """"int", "float", "str" or "other"."""
    choices: list[str] | None
    name: str = ""
    """Of the setting: that of the action's first option, in snake_case."""
    dest: str = ""
    """Attribute of the parsed arguments."""
    default: Any = None
    """Of that attribute, if JSON can hold it."""
    const: Any = None
    """What a switch sets."""
    count: int | None = None
    """How many values it takes, where that is a fixed number above 1."""

    def arguments(self, value: Any, *, origin: str) -> list[str]:
        """Return the command-line arguments that set this option to `value`; none for None and for a switch that is off.

        Raises:
            UserError: the value's type does not fit, or it is not among the choices; `origin` says where it is written.
        """
        name = self.option.removeprefix("--").replace("-", "_")
        if value is None:
            return []
        if self.kind in ("switch", "toggle"):
            if not isinstance(value, bool):
                raise UserError(f"{origin}: {name}={value!r} must be true or false")
            off = [self.option.replace("--", "--no-", 1)] if self.kind == "toggle" else []
            return [self.option] if value else off
        if self.kind == "many":
            values = value if isinstance(value, list) else [value]
            if self.type == "int" and values != value:  # a number alone looks like a count of them
                raise UserError(f"{origin}: {name}={value!r} must be a list, for example {name}=[{value}]")
            if self.count is not None and len(values) != self.count:
                raise UserError(f"{origin}: {name}={values} must have {self.count} values")
            return [self.option, *(self.text(v, name, origin) for v in values)]
        if isinstance(value, list | dict):
            raise UserError(f"{origin}: {name} takes one value, got {value!r}")
        return [f"{self.option}={self.text(value, name, origin)}"]

    def text(self, value: Any, name: str, origin: str) -> str:
        """Return one value as text, checked."""
        if self.choices is not None and str(value) not in self.choices:
            raise UserError(f"{origin}: {name}={value!r} is not one of {', '.join(self.choices)}")
        if self.type not in ("int", "float"):
            return str(value)
        kind = "a whole number" if self.type == "int" else "a number"
        try:
            number = float(value)  # YAML reads 1e3 as text
        except (TypeError, ValueError):
            number = math.nan
        whole = number.is_integer() if math.isfinite(number) else False
        if isinstance(value, bool) or not math.isfinite(number) or (self.type == "int" and not whole):
            raise UserError(f"{origin}: {name}={value!r} must be {kind}")
        return str(int(number)) if self.type == "int" else repr(number)


def read_flags() -> dict[str, Flag]:
    """Return all flags by their name in snake_case: Megatron's from the cache or its parser, and ours."""
    return _read_flags(cache_file())


@functools.cache
def _read_flags(cache: Path) -> dict[str, Flag]:
    try:
        raw = json.loads(cache.read_text(encoding="utf-8"))
        flags = {name: Flag(**fields) for name, fields in raw.items()}
    except (OSError, ValueError, TypeError):
        flags = megatron_flags()
        store(flags, cache)
    return flags | options_of(add_meap_arguments(argparse.ArgumentParser(allow_abbrev=False)))


def store(flags: dict[str, Flag], cache: Path) -> None:
    """Write the table for the next call; without effect in a read-only home."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_text(cache, json.dumps({name: asdict(flag) for name, flag in flags.items()}), shared=True)
    except (OSError, RunError):
        return


def cache_file() -> Path:
    """Return the path of the table for the installed Megatron."""
    try:
        megatron = version("megatron-core")
    except PackageNotFoundError:
        raise UserError("megatron-core is not installed", fix="run `meap doctor`: it gives the command") from None
    root = os.environ.get("MEAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(root) / "meap_megatron" / f"flags-3-megatron-core-{megatron}.json"


def megatron_flags() -> dict[str, Flag]:
    """Read the flags from Megatron's real parser, in an interpreter of its own.

    Here it must not be imported before `platform.prepare`: it would bind Transformer Engine and CUDA as it finds them.

    Raises:
        RunError: Megatron cannot be imported.
    """
    done = subprocess.run([sys.executable, "-m", "meap_megatron.launch.flags"], capture_output=True, text=True)
    try:
        return {name: Flag(**fields) for name, fields in json.loads(done.stdout.splitlines()[-1]).items()}
    except (IndexError, ValueError, TypeError):
        reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        raise RunError(
            f"Megatron's flags cannot be read: {reason}", fix="see what `meap doctor` says is installed"
        ) from None


def print_megatron_flags() -> None:
    """Be that interpreter."""
    runtime.set_thread_policy()
    sys.modules.setdefault(runtime.ENGINE, None)  # type: ignore[arg-type]
    megatron_import.import_megatron()
    from megatron.training.arguments import add_megatron_arguments

    flags = options_of(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    print(json.dumps({name: asdict(flag) for name, flag in flags.items()}))


def options_of(parser: argparse.ArgumentParser) -> dict[str, Flag]:
    """Return the options that a parser declares."""
    flags: dict[str, Flag] = {}
    for action in parser._actions:
        first = next((option for option in action.option_strings if option.startswith("--")), "")
        for option in action.option_strings:
            if not option.startswith("--") or isinstance(action, argparse._HelpAction):
                continue
            toggle = isinstance(action, argparse.BooleanOptionalAction)
            if toggle and option.startswith("--no-"):
                continue
            flags[option.removeprefix("--").replace("-", "_")] = Flag(
                option=option,
                kind="toggle" if toggle else kind_of(action),
                type=action.type.__name__ if action.type in (int, float, str) else "other",
                choices=[str(getattr(one, "name", one)) for one in action.choices] if action.choices else None,
                name=first.removeprefix("--").replace("-", "_"),
                dest=action.dest,
                default=plain(action.default),
                const=plain(action.const),
                count=action.nargs if isinstance(action.nargs, int) and action.nargs > 1 else None,
            )
    return flags


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: the name of an enumeration's member, None for other values."""
    value = getattr(value, "name", value)
    return value if isinstance(value, bool | int | float | str | list) else None


def kind_of(action: argparse.Action) -> str:
    """Classify an option by the number of values it takes."""
    if action.nargs == 0:
        return "switch"
    return "one" if action.nargs in (None, "?") else "many"


if __name__ == "__main__":
    print_megatron_flags()
