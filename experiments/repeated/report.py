"""From the scores of all runs to the registered answer: numbers, table.md, figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.drawing import clean, estimate, new_figure, row, save
from experiments.repeated.plan import ARMS, MEAP, MEASURES, NTP, SMALLEST_DIFFERENCE, TUNED, Plan
from experiments.statistics import LEVEL, contrast, holm, t_interval
from meap_megatron.atomic import replace_text

Scores = Mapping[str, Any]
TITLES = {
    NTP: "NTP",
    TUNED: "NTP, tuned dropout and decay",
    MEAP: "MEAP .15",
    "random15": "random tokens .15",
    "range50": "masked 0 to .5",
    "clean_masked": "clean + masked, half the epochs",
    "mask15_tuned": "MEAP .15 with the tuned settings",
}
MEASURE_TITLES = {"best": "best look", "end": "end of the run"}
COLOURS = dict(zip(ARMS, ("#333333", "#7f7f7f", "#d1495b", "#e0a030", "#2b7bba", "#3a9d5d", "#8e5aa8"), strict=True))


def measures(scores: Scores) -> dict[str, float]:
    """Return the primary measures of a run in bits per byte."""
    bits = [value for _, value in scores["bits_per_byte"]]
    return {"best": min(bits), "end": bits[-1]}


def verdict(found: Mapping[str, float], *, p: float) -> str:
    """Return what a contrast says, by the rules of the protocol; `p` is the adjusted one."""
    if p < LEVEL and abs(found["mean"]) >= SMALLEST_DIFFERENCE:
        return "helps" if found["mean"] < 0 else "hurts"
    if -SMALLEST_DIFFERENCE < found["low"] and found["high"] < SMALLEST_DIFFERENCE:
        return "no difference of interest"
    return "undecided"


def analyse(
    plan: Plan, runs: Sequence[Scores], *, grid: Sequence[Scores], cell: tuple[float, float]
) -> dict[str, Any]:
    """Return all numbers of the report; no difference and no p before every registered run is there.

    Args:
        plan: seeds and arms.
        runs: scores of the finished runs of the comparison.
        grid: scores of the runs that chose `cell`.
        cell: hidden_dropout and weight_decay of the tuned arms.
    """
    values: dict[str, dict[str, dict[int, float]]] = {name: {arm: {} for arm in ARMS} for name in MEASURES}
    for scores in runs:
        for name, value in measures(scores).items():
            values[name][scores["arm"]][scores["seed"]] = value
    there = values["end"]
    missing = {arm: [seed for seed in plan.seeds if seed not in there[arm]] for arm in plan.arms}
    missing = {arm: seeds for arm, seeds in missing.items() if seeds}
    contrasts = {}
    if not missing:
        for base in (NTP, TUNED):
            for arm in plan.arms:
                if arm not in (NTP, base):
                    contrasts |= {
                        f"{arm} - {base}, {name}": contrast(values[name][base], values[name][arm]) for name in MEASURES
                    }
    primary = [f"{MEAP} - {base}, {name}" for base in (NTP, TUNED) for name in MEASURES]
    adjusted = holm({name: contrasts[name]["p_t"] for name in primary}) if contrasts else {}
    verdicts = {name: {"p": p, "verdict": verdict(contrasts[name], p=p)} for name, p in adjusted.items()}
    return {
        "label": plan.label,
        "cell": {"hidden_dropout": cell[0], "weight_decay": cell[1]},
        "grid": {scores["arm"]: measures(scores) for scores in grid},
        "missing": missing,
        "summary": {
            arm: {
                "seeds": len(there[arm]),
                **{name: t_interval([*values[name][arm].values()]) for name in MEASURES},
                "best_step": [best_step(scores) for scores in runs if scores["arm"] == arm],
                "mask_fraction": float(np.mean([s["mask_fraction"] for s in runs if s["arm"] == arm])),
            }
            for arm in ARMS
            if there[arm]
        },
        "contrasts": contrasts,
        "primary": verdicts,
    }


def best_step(scores: Scores) -> int:
    """Return the step of the best look."""
    return int(min(scores["bits_per_byte"], key=lambda look: look[1])[0])


def heading(found: Mapping[str, Any]) -> str:
    """Return what must be read before any number."""
    if found["label"] != "registered":
        return f"**{found['label'].upper()} RUN: it shows that the chain works; its numbers mean nothing.**"
    if found["missing"]:
        done = sum(summary["seeds"] for summary in found["summary"].values())
        left = sum(map(len, found["missing"].values()))
        return f"**INCOMPLETE: {done} of {done + left} registered runs are there; no test is made.**"
    said = "; ".join(f"{name}: {test['verdict']}" for name, test in found["primary"].items())
    return f"Primary results by the rules of the protocol: **{said}**."


def write_report(folder: Path, found: dict[str, Any], runs: Sequence[Scores]) -> None:
    """Write everything but the scores, which have files of their own."""
    replace_text(folder / "results.json", json.dumps(clean(found), indent=1) + "\n")
    replace_text(folder / "table.md", table(found))
    if runs:
        draw(folder / "curves.png", found, runs)


def table(found: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    cell = found["cell"]
    lines = [heading(found), "", "Validation on clean text, bits per byte; mean [95 % t interval over seeds].", ""]
    names = ["arm", "seeds", *(MEASURE_TITLES[name] for name in MEASURES), "step of the best look", "changed inputs"]
    lines += [row(names), row(["---"] * len(names))]
    for arm, summary in found["summary"].items():
        steps = ", ".join(map(str, summary["best_step"]))
        cells = [estimate(*summary[name]) for name in MEASURES]
        lines.append(row([TITLES[arm], str(summary["seeds"]), *cells, steps, f"{summary['mask_fraction']:.3f}"]))
    if found["missing"]:
        lines += ["", f"Seeds that are missing, by arm: {json.dumps(found['missing'])}."]
    if found["contrasts"]:
        lines += ["", "Differences of arms with the same seeds; below zero is better.", ""]
        names = ["arm - arm, measure", "pairs", "difference", "p, t", "p, Holm", "p, sign flip", "verdict"]
        lines += [row(names), row(["---"] * len(names))]
    for name, c in found["contrasts"].items():
        test = found["primary"].get(name)
        difference = estimate(c["mean"], c["low"], c["high"], sign="+")
        said = (f"{test['p']:.4f}", test["verdict"]) if test else ("", "")
        lines.append(
            row([name, str(len(c["seeds"])), difference, f"{c['p_t']:.4f}", said[0], f"{c['p']:.3f}", said[1]])
        )
    lines += [
        "",
        f"The grid, NTP with one seed; chosen: dropout {cell['hidden_dropout']:g}, decay {cell['weight_decay']:g}.",
        "",
    ]
    lines += [row(["cell", *MEASURE_TITLES.values()]), row(["---"] * 3)]
    lines += [row([name, *(f"{values[m]:.3f}" for m in MEASURES)]) for name, values in found["grid"].items()]
    return "\n".join(lines) + "\n"


def draw(path: Path, found: Mapping[str, Any], runs: Sequence[Scores]) -> None:
    """Draw validation bits per byte against steps: every run thin, the mean of each arm thick."""
    figure, axes = new_figure()
    for arm in found["summary"]:
        curves = [scores["bits_per_byte"] for scores in runs if scores["arm"] == arm]
        steps = [step for step, _ in curves[0]]
        values = np.array([[bits for _, bits in curve] for curve in curves])
        label = f"{TITLES[arm]} ({len(curves)} seed{'s' if len(curves) != 1 else ''})"
        axes.plot(steps, values.T, color=COLOURS[arm], alpha=0.3, linewidth=0.8)
        axes.plot(steps, values.mean(axis=0), color=COLOURS[arm], linewidth=2.2, label=label)
    least = min(summary["best"][0] for summary in found["summary"].values())
    axes.set(xlabel="steps", ylabel="validation, clean text, bits per byte", ylim=(least - 0.05, least + 0.8))
    axes.legend(fontsize=8)
    save(figure, axes, path, title=heading(found).replace("**", ""))
