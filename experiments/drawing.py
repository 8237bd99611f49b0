"""Tables and figures that every experiment writes."""

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def clean(value: Any) -> Any:
    """Return JSON values; numbers that are not known (nan) become null."""
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def row(cells: Sequence[str]) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def estimate(mean: float, low: float, high: float, *, sign: str = "") -> str:
    """Return a mean with its interval."""
    interval = "" if math.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{mean:{sign}.3f}{interval}"


def new_figure() -> tuple[Any, Any]:
    """Return an empty figure and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")


def save(figure: Any, axes: Any, path: Path, *, title: str) -> None:
    """Write a figure, with what must be read first as its title."""
    from matplotlib import pyplot

    axes.set_title(textwrap.fill(title, 110), fontsize=9)
    axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
    os.replace(temporary, path)
