"""What a check is given: where to work, what the machine has, and where its figures go."""

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.gpu.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
LOG_CHARACTERS = 2500


class NotApplicable(Exception):
    """A check means nothing here; the message is the reason."""


class Session:
    """One check's view of a run of the script; every figure is on disk when `add` returns."""

    def __init__(self, out: Path, work: Path, *, name: str, device: str, quick: bool, model: Path | None) -> None:
        """Open the session.

        Args:
            out: folder of the results.
            work: folder for data, checkpoints and logs, shared by all checks.
            name: of the check.
            device: "cuda" or "cpu".
            quick: tiny sizes, for tests.
            model: a Hugging Face folder to fine-tune, or None.
        """
        self.out, self.common, self.name = out, work, name
        self.work = work / name
        self.device, self.quick, self.model = device, quick, model
        self.record: dict[str, Any] = {"figures": [], "detail": {}}

    @property
    def on_gpu(self) -> bool:
        """Whether the check runs on a GPU."""
        return self.device == "cuda"

    def add(self, name: str, value: Any, unit: str = "", **rule: Any) -> Any:
        """Note a figure, and return its value."""
        figure = Figure(name=name, value=value, unit=unit, **rule)
        self.record["figures"].append(figure.as_json())
        self.write()
        return value

    def detail(self, name: str, value: Any) -> None:
        """Note what results.json contains and the tables do not, such as single step times."""
        self.record["detail"][name] = value
        self.write()

    def write(self, **status: Any) -> None:
        """Put the record on disk."""
        self.record |= status
        write_json(record_path(self.out, self.name), self.record)

    def earlier(self, check: str, figure: str) -> Any:
        """Return a figure of a check that has run, or None."""
        found = read_json(record_path(self.out, check)) or {}
        return next((one["value"] for one in found.get("figures", []) if one["name"] == figure), None)

    def machine(self) -> dict[str, Any]:
        """Return what the machine check found: GPU name, whether Transformer Engine loads, FP8 recipes."""
        found = read_json(record_path(self.out, "machine")) or {}
        return dict(found.get("detail", {}).get("machine", {}))

    @property
    def is_h100(self) -> bool:
        """Whether the figures to reach, which are for an H100 or H200, apply."""
        return not self.quick and any(name in str(self.machine().get("gpu")) for name in ("H100", "H200"))


def record_path(out: Path, check: str) -> Path:
    """Return where a check keeps its record."""
    return out / "checks" / f"{check}.json"


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, None if there is none or it was cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def tail(path: Path) -> str:
    """Return the end of a log, empty if there is none."""
    return path.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:] if path.exists() else ""
