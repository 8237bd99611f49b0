"""One line of the doctor's report."""

from dataclasses import asdict, dataclass
from typing import Any

NEEDED = "needed"
FASTER = "makes GPU runs faster"
OPTIONAL = "optional"
GROUPS = (NEEDED, FASTER, OPTIONAL)

OK = "ok"
DIFFERS = "differs"
"""Usable, but not as tested, or smaller than it should be."""
MISSING = "missing"
BROKEN = "broken"
STATES = (OK, DIFFERS, MISSING, BROKEN)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The state of one part."""

    name: str
    group: str
    state: str = OK
    version: str = ""
    detail: str = ""
    cost: str = ""
    """What is lost while the part is as it is."""
    fix: str = ""
    """The command, or else the advice, that puts it right."""

    @property
    def fails(self) -> bool:
        """Tell whether the exit status must be 1: something needed is missing or broken."""
        return self.group == NEEDED and self.state in (MISSING, BROKEN)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return asdict(self) | {"fails": self.fails}
