"""Read the Dockerfile as a list of instructions."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Instruction(NamedTuple):
    """One instruction of a stage."""

    stage: int
    """Index of the FROM above it."""
    name: str
    words: str


def read(path: Path = ROOT / "Dockerfile") -> list[Instruction]:
    """Return the instructions with their continued lines joined and the comments gone."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    found: list[Instruction] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            name, words = line.strip().split(maxsplit=1)
            stage = sum(i.name == "FROM" for i in found) - (name != "FROM")
            found.append(Instruction(stage, name, " ".join(words.split())))
    return found


def final(instructions: list[Instruction]) -> list[Instruction]:
    """Return those of the last stage."""
    return [i for i in instructions if i.stage == instructions[-1].stage]


def command(run: Instruction) -> str:
    """Return the shell command of a RUN, without its --mount options."""
    return re.sub(r"^(--mount=\S+\s+)+", "", run.words)
