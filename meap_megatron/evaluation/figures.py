"""The pictures beside a results document: heat map of the needle, curves over positions and lengths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from meap_megatron.atomic import replace_file
from meap_megatron.evaluation.attention import figures


def draw(content: dict[str, Any], path: Path) -> Path | None:
    """Draw the figure of a results document; None where the suite has none or nothing was scored."""
    drawers: dict[str, Callable[[Any, dict[str, Any]], None]] = {
        "needle": heat_map,
        "mdqa": lambda axes, found: position_curves(axes, found, of="num_documents", unit="documents"),
        "kv": lambda axes, found: position_curves(axes, found, of="num_keys", unit="keys"),
        "mrs": length_curves,
        "text-loss": loss_by_position,
        "ruler": length_curves,
        "babilong": length_curves,
        "nolima": heat_map,
        "helmet-recall": length_curves,
        "attention": figures.decay_and_variance,
        "regions": figures.region_shares,
        "retrieval-heads": figures.head_map,
    }
    if content["suite"] not in drawers or all(cell["mean"] is None for cell in content["cells"]):
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    try:
        drawers[content["suite"]](axes, content)
        with replace_file(path) as stream:
            figure.savefig(stream, dpi=160, format="png")
    finally:
        pyplot.close(figure)
    return path


def heat_map(axes: Any, content: dict[str, Any]) -> None:
    """Draw depth against length, red for 0 to green for 100; lengths that did not fit stay grey."""
    cells = content["cells"]
    lengths = sorted({cell["length"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    found = {(cell["length"], cell["depth"]): cell["mean"] for cell in cells}
    grid = [[_percent(found.get((length, depth))) for length in lengths] for depth in depths]
    axes.set_facecolor("#d9d9d9")
    image = axes.imshow(grid, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            if value == value:
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(lengths)), [f"{n // 1024}K" if n % 1024 == 0 else f"{n:,}" for n in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths])
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel("depth of the needle (%)")
    overall = content["headline"]["average"]
    what = {"needle": "Needle in a haystack: ROUGE-1 recall", "nolima": "NoLiMa: correct"}[content["suite"]]
    axes.set_title(f"{what} (%), mean {_percent(overall):.1f}", fontsize=10)
    axes.figure.colorbar(image, ax=axes)


def position_curves(axes: Any, content: dict[str, Any], *, of: str, unit: str) -> None:
    """Draw the score against the place of the gold document or key, one line for each size."""
    for number in sorted({cell[of] for cell in content["cells"]}):
        line = [cell for cell in content["cells"] if cell[of] == number and cell["mean"] is not None]
        if not line:
            continue
        means = [_percent(cell["mean"]) for cell in line]
        # Half the width of the 95 % interval of a share.
        halves = [196 * (cell["mean"] * (1 - cell["mean"]) / cell["n"]) ** 0.5 for cell in line]
        label = f"{number} {unit}" if number > 1 else "gold document only"
        axes.errorbar(
            [cell["gold_index"] + 1 for cell in line], means, yerr=halves, marker="o", capsize=3, label=label
        )
    sources = sorted({source for task in content["tasks"] for source in task["sources"]})
    axes.set_title(f"{content['suite'].upper()}, data: {', '.join(sources)}", fontsize=10)
    axes.set_xlabel("place of the gold document" if unit == "documents" else "place of the key")
    axes.set_ylabel("correct (%)")
    _finish(axes)


def length_curves(axes: Any, content: dict[str, Any]) -> None:
    """Draw the score against the length, one line for each number of needles or task."""
    field = "num_needles" if content["suite"] == "mrs" else "task"
    for value in sorted({cell[field] for cell in content["cells"]}):
        line = [cell for cell in content["cells"] if cell[field] == value and cell["mean"] is not None]
        if line:
            means = [_percent(cell["mean"]) for cell in line]
            label = f"{value} needles" if field == "num_needles" else value.removeprefix("meap_")
            axes.plot([cell["length"] for cell in line], means, marker="o", label=label)
    sources = sorted({source for task in content["tasks"] for source in task["sources"]})
    name = {"mrs": "M-RS", "ruler": "RULER", "babilong": "BABILong", "helmet-recall": "HELMET, recall"}[
        content["suite"]
    ]
    axes.set_title(f"{name}, data: {', '.join(sources)}" if sources else name, fontsize=10)
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel("expected words found (%)")
    _finish(axes)


def loss_by_position(axes: Any, content: dict[str, Any]) -> None:
    """Draw the loss against the position in the context, with its interval."""
    line = [cell for cell in content["cells"] if cell["mean"] is not None]
    places = [(cell["from"] * cell["to"]) ** 0.5 for cell in line]
    axes.plot(places, [cell["mean"] for cell in line], marker="o")
    axes.fill_between(places, [cell["low"] for cell in line], [cell["high"] for cell in line], alpha=0.2)
    found = content["headline"]
    axes.set_title(f"Loss by position: {found['loss']:.3f} nats, {found['bits_per_byte']:.4f} bits/byte", fontsize=10)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens before")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)


def _finish(axes: Any) -> None:
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share
