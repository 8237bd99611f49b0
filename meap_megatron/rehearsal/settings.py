"""Settings of a recipe as numbers, with the place where each was written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meap_megatron.training.recipe import Setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The resolved settings of a recipe, under Megatron's names."""

    table: Mapping[str, Setting]

    def get(self, name: str) -> Any:
        """Return a setting's value, None if it is absent."""
        return self.table[name].value if name in self.table else None

    def whole(self, name: str, default: int | None = None) -> int | None:
        """Return a setting as a whole number of at least 1, `default` if it is absent or none (its own check names that)."""
        value = self.get(name)
        if isinstance(value, bool) or value is None:
            return default
        try:
            number = float(value)  # YAML reads 1e3 as text
        except (TypeError, ValueError):
            return default
        return int(number) if number.is_integer() and number >= 1 else default

    def on(self, name: str) -> bool:
        """Tell whether a switch is on."""
        return self.get(name) is True

    def has(self, *names: str) -> bool:
        """Tell whether one of these is given."""
        return any(self.get(name) not in (None, False) for name in names)

    def where(self, name: str) -> str:
        """Return "FILE:LINE: " or "override ...: " for a setting that is written somewhere, "" for a default."""
        return f"{self.table[name].origin}: " if self.get(name) is not None else ""
