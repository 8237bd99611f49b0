"""The pages of the documentation and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.runs import ROOT

BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```bash\n(?P<body>.*?)```", flags=re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One `meap` command of a page."""

    page: str
    words: tuple[str, ...]
    not_run: str | None
    """Why no test runs it, from the comment above its block."""

    def __str__(self) -> str:
        return f"{self.page}: meap {shlex.join(self.words)}"


def pages() -> list[Path]:
    """Return all pages that users read."""
    found = [ROOT / "README.md", ROOT / "examples/recipes/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if page.name != "log.md"]


def commands(page: Path) -> list[Command]:
    """Return the `meap` commands in the bash blocks of a page, in order; a trailing backslash joins lines."""
    result = []
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        for line in block["body"].replace("\\\n", " ").splitlines():
            if line.startswith("meap "):
                words = tuple(shlex.split(line, comments=True)[1:])
                result.append(Command(str(page.relative_to(ROOT)), words, block["reason"]))
    return result
