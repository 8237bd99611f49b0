"""results.json, table.md and the two figures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.drawing import clean, estimate, new_figure, row, save
from experiments.retrieval_small.analysis import Scores, accuracies
from meap_megatron.atomic import replace_text

COLOURS = {"0": "#333333", "0.05": "#2b7bba", "0.15": "#d1495b", "0.3": "#e0a030"}
METRICS = {
    "area": "accuracy, mean over the run",
    "final": "accuracy at the end",
    "any_value": "answers at the end that are any value of the row",
    "final_masked": "accuracy at the end, masked input",
    "validation_loss": "validation loss, nats per token",
    "long": "accuracy at the end, rows three times as long",
    "distractors": "accuracy at the end, long rows with facts that nothing asks for",
}


def write_report(folder: Path, found: dict[str, Any], arms: Sequence[Scores]) -> None:
    """Write everything but the arms, whose scores have files of their own; numbers that are not known (nan) become null."""
    replace_text(folder / "results.json", json.dumps(clean(found), indent=1) + "\n")
    replace_text(folder / "table.md", table(found))
    draw(folder / "curves.png", found, arms)
    if found["contrasts"]:
        draw_contrasts(folder / "differences.png", found)


def heading(found: dict[str, Any]) -> str:
    """Return what must be read before any number."""
    if found["label"] == "smoke":
        return f"**{found['label'].upper()} RUN: it shows that the chain works; its numbers mean nothing.**"
    if found["verdict"] is None:
        return "**INCOMPLETE: registered arms of the primary comparison are missing; no test is made.**"
    return f"Primary result by the rules of the protocol: **{found['verdict']}**."


def table(found: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    ratios = sorted(found["summary"], key=float)
    lines = [heading(found), "", f"Rows with {found['facts']} facts; mean [95 % t interval over seeds].", ""]
    lines += [row(["", *(f"ratio {ratio}" for ratio in ratios)]), row(["---"] * (1 + len(ratios)))]
    lines.append(row(["seeds", *(str(found["summary"][ratio]["seeds"]) for ratio in ratios)]))
    there = [name for name in METRICS if name in next(iter(found["summary"].values()))]
    for name in there:
        title = METRICS[name] + (" (primary)" if name == found["primary"] else "")
        lines.append(row([title, *(estimate(*found["summary"][ratio][name]) for ratio in ratios)]))
    for level in ("0.5", "0.9"):
        cells = [found["summary"][ratio][f"tokens_to_{level}"] for ratio in ratios]
        said = [
            f"{'never' if c['median'] is None else f'{c["median"] / 1e6:.2f} M'} ({c['arms']} arms)" for c in cells
        ]
        lines.append(row([f"median tokens to accuracy {level} (arms that reach it)", *said]))
    lines.append(row(["masked share of the inputs", *(f"{found['summary'][r]['mask_fraction']:.3f}" for r in ratios)]))
    if found["missing"]:
        lines += ["", f"Seeds that are missing, by ratio: {json.dumps(found['missing'])}."]
    lines += ["", "Differences from ratio 0, same seeds.", ""]
    lines += [row(["ratio", "metric", "pairs", "difference", "p, sign flip"]), row(["---"] * 5)]
    for ratio, contrasts in sorted(found["contrasts"].items(), key=lambda item: float(item[0])):
        for name, c in contrasts.items():
            difference = estimate(c["mean"], c["low"], c["high"], sign="+")
            lines.append(row([ratio, METRICS[name], str(len(c["seeds"])), difference, f"{c['p']:.4f}"]))
    return "\n".join(lines) + "\n"


def draw(path: Path, found: dict[str, Any], arms: Sequence[Scores]) -> None:
    """Draw accuracy against tokens: every arm thin, the mean of each ratio thick."""
    figure, axes = new_figure()
    for ratio in sorted(found["summary"], key=float):
        curves = [arm for arm in arms if arm["ratio"] == float(ratio)]
        tokens = [look["tokens"] / 1e6 for look in curves[0]["curve"]]
        values = np.array([accuracies(arm, facts=found["facts"]) for arm in curves])
        axes.plot(tokens, values.T, color=COLOURS[ratio], alpha=0.3, linewidth=0.8)
        axes.plot(
            tokens,
            values.mean(axis=0),
            color=COLOURS[ratio],
            linewidth=2.2,
            label=f"ratio {ratio} ({len(curves)} seeds)",
        )
    axes.axhline(1 / found["facts"], color="grey", linestyle=":", label="any value of the row")
    axes.set(xlabel="training tokens (M)", ylabel="accuracy, clean input", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    save(figure, axes, path, title=title(found))


def draw_contrasts(path: Path, found: dict[str, Any]) -> None:
    """Draw the difference in the primary metric from ratio 0: every pair a dot, mean with its interval beside it."""
    figure, axes = new_figure()
    names = sorted(found["contrasts"], key=float)
    for place, name in enumerate(names):
        c = found["contrasts"][name][found["primary"]]
        axes.plot([place] * len(c["differences"]), c["differences"], "o", color="grey", alpha=0.6, markersize=4)
        if not math.isnan(c["low"]):
            half = [[c["mean"] - c["low"]], [c["high"] - c["mean"]]]
            axes.errorbar([place + 0.15], [c["mean"]], yerr=half, fmt="s", color="#d1495b", capsize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), [f"ratio {name}" for name in names])
    axes.set(xlim=(-0.5, len(names) - 0.5), ylabel=f"difference from ratio 0: {METRICS[found['primary']]}")
    save(figure, axes, path, title=title(found))


def title(found: dict[str, Any]) -> str:
    """Return the title of a figure."""
    return f"{found['facts']} facts per row. {heading(found).replace('**', '')}"
