"""The figures of the attention suites: ours beside the paper's."""

from typing import Any

OURS, PAPER = {"ntp": "#7a8ba3", "meap": "#c8553d"}, {"ntp": "#d3d9e1", "meap": "#efc7bd"}
"""Colours by arm; the paper's are the pale ones."""
TITLES = {
    "figure_6": "Figure 6: Eiffel Tower",
    "table_16": "Table 16: Great Wall",
    "table_17": "Table 17: relativity",
    "table_18": "Table 18: Colosseum",
}


def decay_and_variance(axes: Any, content: dict[str, Any]) -> None:
    """Draw Score Decay and Variance Increase of every length: ours in their three parts, and the paper's."""
    figure = axes.figure
    axes.remove()
    left, right = figure.subplots(1, 2)
    lengths = list(content["analysis"])
    series = {
        "MEAP masked against NTP clean": ("table_10", OURS["meap"]),
        "model alone (both clean)": ("model", "#8c9a5b"),
        "input alone (both MEAP)": ("input", "#d9a441"),
    }
    for panel, kind, field in ((left, "decay", "decay"), (right, "variance_increase", "relative")):
        for number, (label, (comparison, colour)) in enumerate(series.items()):
            values = [content["analysis"][length]["full"][comparison][kind][field] for length in lengths]
            _bars(panel, [index + 0.2 * number for index in range(len(lengths))], values, colour, label)
        printed = [(content["paper"].get(length) or {}).get(kind) for length in lengths]
        if any(value is not None for value in printed):
            _bars(panel, [index + 0.6 for index in range(len(lengths))], printed, PAPER["meap"], "Table 10")
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set_xticks(
            [index + 0.3 for index in range(len(lengths))], [f"T = {int(length):,}" for length in lengths]
        )
        panel.set_title("Score Decay (%)" if kind == "decay" else "Variance Increase (%)", fontsize=10)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)


def region_shares(axes: Any, content: dict[str, Any]) -> None:
    """Draw the shares of the regions: one panel for each text of the paper, and one for the templated items."""
    figure = axes.figure
    axes.remove()
    figure.set_size_inches(9.6, 5.6)
    panels = figure.subplots(2, 3, sharey=True).flatten()
    regions = content["regions"]
    texts = list(dict.fromkeys(cell["text"] for cell in content["cells"]))
    for panel, text in zip(panels, texts, strict=False):
        printed = content["paper"].get(text, {})
        for offset, arm in ((0.0, "ntp"), (0.4, "meap")):
            ours = [cell["mean"] for cell in content["cells"] if cell["text"] == text and cell["arm"] == arm]
            places = [index + offset for index in range(len(regions))]
            _bars(panel, places, ours, OURS[arm], arm.upper(), number=False)
            if arm in printed:
                later = [place + 0.2 for place in places]
                _bars(panel, later, list(printed[arm]), PAPER[arm], f"{arm.upper()}, paper", number=False)
        count = next(cell["n"] for cell in content["cells"] if cell["text"] == text)
        panel.set_title(TITLES.get(text, f"{count} templated items, mean"), fontsize=9)
        panel.set_xticks([index + 0.3 for index in range(len(regions))], regions, fontsize=8)
        panel.set_ylim(0, 100)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    panels[0].set_ylabel("share of attention (%)")
    panels[3].set_ylabel("share of attention (%)")
    panels[5].axis("off")
    panels[5].legend(*panels[0].get_legend_handles_labels(), loc="center", fontsize=9, frameon=False)


def head_map(axes: Any, content: dict[str, Any]) -> None:
    """Draw the score of every head on clean input, one panel for each model."""
    figure = axes.figure
    axes.remove()
    cells = [cell for cell in content["analysis"]["cells"] if cell.endswith("_clean")]
    panels = figure.subplots(1, len(cells), squeeze=False)[0]
    for panel, cell in zip(panels, cells, strict=True):
        found = content["analysis"]["cells"][cell]["forced"]
        image = panel.imshow(found["scores"], vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
        arm = cell.removesuffix("_clean").upper()
        panel.set_title(f"{arm}: {found['retrieval_heads']} retrieval heads, best {found['best']:.2f}", fontsize=10)
        panel.set_xlabel("head")
        panel.set_ylabel("layer")
    figure.colorbar(image, ax=list(panels), label="share of the answer's tokens copied")


def _bars(
    panel: Any, places: list[float], values: list[float | None], colour: str, label: str, *, number: bool = True
) -> None:
    known = [(place, 100 * value) for place, value in zip(places, values, strict=True) if value is not None]
    if not known:
        return
    drawn = panel.bar([place for place, _ in known], [value for _, value in known], 0.19, color=colour, label=label)
    if number:
        panel.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
