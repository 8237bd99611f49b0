"""From the scores of all models to the registered answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.drawing import clean, estimate, new_figure, row, save
from experiments.finetuning.plan import EQUAL_EPOCHS, MEAP, NTP, SMALLEST_DIFFERENCE, SMOKE, UNTOUCHED, Plan
from experiments.statistics import contrast, t_interval
from meap_megatron.atomic import replace_text

Scores = Mapping[str, Any]
RESAMPLES = 10_000


def accuracy(scores: Scores) -> float:
    """Return the primary measure: the mean over places of the share of questions that are answered."""
    return float(np.mean([np.mean(outcomes) for outcomes in scores["mdqa"].values()]))


def secondary(scores: Scores) -> dict[str, float]:
    """Return the secondary measures by name: key-value retrieval at every place, the needle at every length."""
    headlines = scores["headlines"]
    places = headlines.get("kv", {}).get("by_position", {})
    lengths = headlines.get("needle", {}).get("by_length", {})
    kv = {f"key {place} of {keys}": v for keys, found in places.items() for place, v in found.items()}
    return kv | {f"needle, {int(length):,} tokens": value for length, value in lengths.items()}


def by_question(runs: Sequence[Scores]) -> np.ndarray:
    """Return the share of places and seeds at which each question is answered: float64[questions]."""
    return np.mean([outcomes for scores in runs for outcomes in scores["mdqa"].values()], axis=0)


def question_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over questions."""
    drawn = np.random.default_rng(0).integers(0, len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def verdict(found: Mapping[str, Any]) -> str:
    """Return what a contrast says, by the rules of the protocol: both intervals have to agree."""
    low, high = min(found["low"], found["question_low"]), max(found["high"], found["question_high"])
    if low > 0 and found["mean"] >= SMALLEST_DIFFERENCE:
        return "support"
    if high < 0 and found["mean"] <= -SMALLEST_DIFFERENCE:
        return "against"
    if -SMALLEST_DIFFERENCE < low and high < SMALLEST_DIFFERENCE:
        return "no difference of interest"
    return "undecided"


def analyse(plan: Plan, runs: Sequence[Scores]) -> dict[str, Any]:
    """Return all numbers of the report; no difference before every registered model is there."""
    arms = {arm: [scores for scores in runs if scores["arm"] == arm] for arm in (UNTOUCHED, *plan.arms)}
    missing = {arm: [s for s in plan.seeds if s not in {r["seed"] for r in arms[arm]}] for arm in plan.arms}
    missing = {arm: seeds for arm, seeds in missing.items() if seeds}
    contrasts = {}
    for base in (NTP, EQUAL_EPOCHS):
        if missing or base not in plan.arms:
            continue
        values = [{scores["seed"]: accuracy(scores) for scores in arms[arm]} for arm in (base, MEAP)]
        found = contrast(*values)
        low, high = question_interval(by_question(arms[MEAP]) - by_question(arms[base]))
        found |= {"question_low": low, "question_high": high}
        contrasts[f"{MEAP} - {base}"] = found | {"verdict": verdict(found) if plan.label != SMOKE.label else None}
    return {
        "label": plan.label,
        "missing": missing,
        "summary": {
            arm: {
                "models": len(found),
                "each": [accuracy(scores) for scores in found],
                "mdqa": t_interval([accuracy(scores) for scores in found]),
                "places": {task: float(np.mean([s["mdqa"][task] for s in found])) for task in found[0]["mdqa"]},
                "secondary": {
                    name: t_interval([secondary(scores)[name] for scores in found]) for name in secondary(found[0])
                },
                "headlines": [scores["headlines"] for scores in found],
            }
            for arm, found in arms.items()
            if found
        },
        "contrasts": contrasts,
    }


def heading(found: Mapping[str, Any]) -> str:
    """Return what must be read before any number."""
    if found["label"] == SMOKE.label:
        return f"**{found['label'].upper()} RUN: it shows that the chain works; its numbers mean nothing.**"
    if found["missing"]:
        return "**INCOMPLETE: registered models are missing; no test is made.**"
    said = "; ".join(f"{name}: {c['verdict']}" for name, c in found["contrasts"].items())
    return f"Primary results by the rules of the protocol: **{said}**."


def write_report(folder: Path, found: Mapping[str, Any]) -> None:
    """Write results.json, table.md and the figures: every model, and every difference with its two intervals."""
    replace_text(folder / "results.json", json.dumps(clean(found), indent=1) + "\n")
    places = list(next(iter(found["summary"].values()))["places"])
    lines = [
        heading(found),
        "",
        "Multi-document QA, share of questions answered; mean [95 % t interval over seeds].",
        "",
    ]
    lines += [row(["arm", "models", "mean of places", *places]), row(["---"] * (3 + len(places)))]
    for arm, summary in found["summary"].items():
        values = [f"{summary['places'][place]:.3f}" for place in places]
        lines.append(row([arm, str(summary["models"]), estimate(*summary["mdqa"]), *values]))
    lines += ["", row(["arm - arm", "difference, over seeds", "over questions", "p, t"]), row(["---"] * 4)]
    for name, c in found["contrasts"].items():
        questions = f"[{c['question_low']:+.3f}, {c['question_high']:+.3f}]"
        lines.append(row([name, estimate(c["mean"], c["low"], c["high"], sign="+"), questions, f"{c['p_t']:.3f}"]))
    if names := list(next(iter(found["summary"].values()))["secondary"]):
        lines += ["", "Secondary, the same: key-value retrieval (share answered), needle (ROUGE-1 recall).", ""]
        lines += [row(["arm", *names]), row(["---"] * (1 + len(names)))]
        for arm, summary in found["summary"].items():
            lines.append(row([arm, *(estimate(*summary["secondary"][name]) for name in names)]))
    replace_text(folder / "table.md", "\n".join(lines) + "\n")
    draw_models(folder / "models.png", found)
    if found["contrasts"]:
        draw_contrasts(folder / "differences.png", found)


def draw_models(path: Path, found: Mapping[str, Any]) -> None:
    """Draw the primary measure: every model a dot, the mean of its arm a line."""
    figure, axes = new_figure()
    for place, summary in enumerate(found["summary"].values()):
        axes.plot([place] * len(summary["each"]), summary["each"], "o", color="grey", markersize=5)
        axes.hlines(np.mean(summary["each"]), place - 0.2, place + 0.2, color="#d1495b", linewidth=2)
    axes.set_xticks(range(len(found["summary"])), list(found["summary"]))
    axes.set(
        xlim=(-0.5, len(found["summary"]) - 0.5), ylim=(0, None), ylabel="questions answered, mean of three places"
    )
    save(figure, axes, path, title=heading(found).replace("**", ""))


def draw_contrasts(path: Path, found: Mapping[str, Any]) -> None:
    """Draw the differences: every seed a dot, mean with the interval over seeds and the one over questions."""
    figure, axes = new_figure()
    for place, c in enumerate(found["contrasts"].values()):
        axes.plot([place] * len(c["differences"]), c["differences"], "o", color="grey", markersize=5)
        for shift, interval, colour in ((0.1, "seeds", "#d1495b"), (0.2, "questions", "#2b7bba")):
            low, high = (c["low"], c["high"]) if interval == "seeds" else (c["question_low"], c["question_high"])
            half = [[c["mean"] - low], [high - c["mean"]]]
            label = f"mean, 95 % interval over {interval}" if place == 0 else None
            axes.errorbar([place + shift], [c["mean"]], yerr=half, fmt="s", color=colour, capsize=4, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhspan(-SMALLEST_DIFFERENCE, SMALLEST_DIFFERENCE, color="grey", alpha=0.15, label="of no interest")
    axes.set_xticks(range(len(found["contrasts"])), list(found["contrasts"]))
    axes.set(xlim=(-0.5, len(found["contrasts"]) - 0.5), ylabel="difference in questions answered")
    axes.legend(fontsize=8)
    save(figure, axes, path, title=heading(found).replace("**", ""))
