"""What an entry of the lists of run-time replacements is."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Redirect:
    """One replaced name: `target` ("module:attribute.path"), its replacement, and why."""

    target: str
    make: Callable[[Any], Any]
    """Maps the original object to its replacement."""
    why: str

    def locate(self) -> tuple[Any, str]:
        """Return the object that holds the name, and the name."""
        module_name, _, path = self.target.partition(":")
        owner: Any = importlib.import_module(module_name)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """A module of ours that Megatron imports in the place of a package that is not installed."""

    name: str
    module: ModuleType
    why: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One name of another library that a module of ours assigns to during a run."""

    target: str
    """As of a `Redirect`; "sys:modules[NAME]" is an entry of Python's table of modules."""
    where: str
    """Our module, below `meap_megatron`."""
    why: str


def by(replacement: Callable[..., Any]) -> Callable[[Any], Any]:
    """Replace whatever stood there by a function that calls `replacement`.

    Each name gets a function of its own: torch.compile's tables refuse one object under two names.
    """

    def make(original: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: replacement(*args, **kwargs)

    return make


def missing(targets: Iterable[str]) -> list[str]:
    """Return the targets ("module:attribute.path") that do not exist in the installed versions."""
    absent = []
    for target in targets:
        module_name, _, path = target.partition(":")
        try:
            owner: Any = importlib.import_module(module_name)
            for name in path.partition("[")[0].split("."):
                owner = getattr(owner, name)
        except (ImportError, AttributeError):
            absent.append(target)
    return absent
