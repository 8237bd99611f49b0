"""What a person sees in the terminal while the demo runs: stages with their times, and the arms' lines, marked."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from meap_megatron.demo.sample import Cell
from meap_megatron.terminal import in_colour

COLOURS = {"ntp": "\x1b[34m", "meap": "\x1b[33m", "mask": "\x1b[30;43m", "bold": "\x1b[1m"}
RESET = "\x1b[0m"


class Screen:
    """Prints, in colour on a terminal, and keeps the stages for the page."""

    def __init__(self, num_stages: int, *, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.in_colour = in_colour(self.stream)
        self.num_stages = num_stages
        self.stages: list[dict[str, Any]] = []
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.began

    def coloured(self, text: str, colour: str) -> str:
        """Return text in a colour of `COLOURS`, if this is a terminal."""
        return f"{COLOURS[colour]}{text}{RESET}" if self.in_colour else text

    def say(self, line: str = "") -> None:
        """Print one line."""
        print(line, file=self.stream, flush=True)

    def arm_line(self, arm: str, line: str) -> None:
        """Print one line of an arm."""
        self.say(f"  {self.coloured(f'{arm.upper():<4} |', arm)} {line}")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage; the caller puts what was made under "made" of the yielded record."""
        record: dict[str, Any] = {"name": name, "made": ""}
        number = len(self.stages) + 1
        self.say(self.coloured(f"[{number}/{self.num_stages}] {name}", "bold"))
        began = time.monotonic()
        yield record
        record["seconds"] = time.monotonic() - began
        self.stages.append(record)
        self.say(f"      {record['made']}  ({record['seconds']:.1f} s)")

    def sample(self, cells: Sequence[Cell], mask_text: str = "[MASK]") -> None:
        """Print a masked sample as running text."""
        shown = "".join(self.coloured(mask_text, "mask") if cell.masked else cell.text for cell in cells)
        for line in shown.splitlines():
            if line.strip():
                self.say(f"      {line}")
