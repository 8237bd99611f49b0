"""What a folder of checkpoints holds, as data and as a table."""

from pathlib import Path
from typing import Any

from meap_megatron.checkpoint.check import Inspection, inspect
from meap_megatron.checkpoint.choose import choose
from meap_megatron.checkpoint.folder import iteration_folder, iterations, read_tracker
from meap_megatron.errors import counted
from meap_megatron.formats import aligned

HEADINGS = ("step", "size", "state", "layout", "written", "")


def as_json(found: Inspection) -> dict[str, Any]:
    """Return one inspection as JSON values."""
    known = found.manifest
    return {
        "iteration": int(found.checkpoint.name.removeprefix("iter_")),
        "bytes": found.bytes,
        "state": found.state,
        "checked": found.level,
        "problems": [vars(problem) for problem in found.problems],
        "layout": known.layout if known else {},
        "consumed_samples": known.consumed_samples if known else None,
        "versions": known.versions if known else {},
        "written": known.written if known else "",
    }


def listing(folder: Path) -> dict[str, Any]:
    """Return what a folder holds; sizes are compared, contents are not read."""
    return {
        "folder": str(folder),
        "tracker": read_tracker(folder).text,
        "would_load": choose(folder, "sizes").iteration,
        "checkpoints": [as_json(inspect(iteration_folder(folder, n), "sizes")) for n in iterations(folder)],
        "set_aside": sorted(path.name for path in folder.glob("*-iter_*") if path.is_dir()),
    }


def table(found: dict[str, Any]) -> str:
    """Return a listing as text."""
    lines = []
    if found["checkpoints"]:
        rows = [HEADINGS, *(row(one, found["would_load"]) for one in found["checkpoints"])]
        lines += aligned(rows, left=range(2, len(HEADINGS)))
    for one in found["checkpoints"]:
        lines += [
            f"  step {one['iteration']}: {p['file']}: expected {p['expected']}, found {p['found']}"
            for p in one["problems"]
        ]
    if found["tracker"] is not None and found["tracker"] != str(found["would_load"]):
        lines.append(f"  the tracker says {found['tracker']!r}")
    if found["set_aside"]:
        lines.append(f"  set aside: {', '.join(found['set_aside'])}")
    return "\n".join(lines)


def row(one: dict[str, Any], would_load: int | None) -> tuple[str, ...]:
    """Return the cells of one checkpoint."""
    return (
        str(one["iteration"]),
        size_text(one["bytes"]),
        one["state"],
        layout_text(one["layout"]),
        one["written"].replace("T", " ").removesuffix("+00:00") + (" UTC" if one["written"] else "-"),
        "<- would be loaded" if one["iteration"] == would_load else "",
    )


def layout_text(layout: dict[str, int]) -> str:
    """Return a layout as "8 ranks: TP 2 PP 2 DP 2"; "-" if it is not known."""
    if not layout:
        return "-"
    names = {"tensor": "TP", "pipeline": "PP", "context": "CP", "data": "DP"}
    parts = [f"{short} {layout[name]}" for name, short in names.items() if layout.get(name, 1) > 1]
    ranks = layout.get("world", 1)
    return f"{counted(ranks, 'rank')}" + (f": {' '.join(parts)}" if parts else "")


def size_text(count: int) -> str:
    """Return a number of bytes as "21.5 MB" (powers of 1,000)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
