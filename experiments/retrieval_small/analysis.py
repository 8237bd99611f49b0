"""From the scores of all arms to the registered answer. Pure functions of numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.retrieval_small.plan import (
    ALPHA,
    MEAP_RATIO,
    NTP_RATIO,
    SMALLEST_DIFFERENCE,
    Plan,
)
from experiments.statistics import contrast, t_interval

Scores = Mapping[str, Any]
LEVELS = (0.5, 0.9)
NOT_CONTRASTED = ("any_value",)


def accuracies(scores: Scores, *, facts: int) -> list[float]:
    """Return the accuracy on rows with `facts` facts at every checkpoint."""
    return [look["facts"][str(facts)]["accuracy"] for look in scores["curve"]]


def area(curve: Sequence[float]) -> float:
    """Return the mean accuracy over the checkpoints: the primary metric, in 0..1."""
    return float(np.mean(curve))


def probe_accuracy(scores: Scores, *, name: str) -> float:
    """Return the accuracy at the end on the rows of a probe."""
    return float(scores["probes"][name]["accuracy"])


def tokens_to(scores: Scores, level: float, *, facts: int) -> float | None:
    """Return the tokens, in between linearly, at which the accuracy first reaches a level; None if it never does."""
    before_tokens, before = 0.0, 0.0
    for look, value in zip(scores["curve"], accuracies(scores, facts=facts), strict=True):
        if value >= level:
            return before_tokens + (look["tokens"] - before_tokens) * (level - before) / (value - before)
        before_tokens, before = look["tokens"], value
    return None


def verdict(primary: Mapping[str, Any]) -> str:
    """Return what the primary contrast says, by the rules of the protocol."""
    if primary["p"] < ALPHA and primary["mean"] >= SMALLEST_DIFFERENCE:
        return "support"
    if primary["p"] < ALPHA and primary["mean"] <= -SMALLEST_DIFFERENCE:
        return "against"
    if -SMALLEST_DIFFERENCE < primary["low"] and primary["high"] < SMALLEST_DIFFERENCE:
        return "no difference of interest"
    return "undecided"


def trial_problem(plan: Plan, trial: Sequence[Scores]) -> str | None:
    """Return why the comparison must not begin after this trial, or None if it may."""
    if len(trial) < len(plan.trial_seeds):
        return f"the trial has {len(trial)} of {len(plan.trial_seeds)} runs"
    curves = [accuracies(scores, facts=plan.facts[-1]) for scores in trial]
    if not all(curve[-1] >= plan.formed for curve in curves):
        return "retrieval did not form in every run of the trial; the protocol needs an amendment before any MEAP run"
    if curves and all(curve[0] >= plan.too_easy for curve in curves):
        return "the trial is solved at the first look; the protocol needs an amendment before any MEAP run"
    return None


def analyse(plan: Plan, arms: Sequence[Scores]) -> dict[str, Any]:
    """Return all numbers of the report.

    Args:
        plan: sizes; the registered test is made only if every one of its arms is there.
        arms: scores of the finished arms.
    """
    facts = plan.facts[-1]
    by_ratio: dict[float, dict[int, Scores]] = {ratio: {} for ratio in plan.seeds}
    for scores in arms:
        by_ratio[scores["ratio"]][scores["seed"]] = scores
    missing = {ratio: [seed for seed in seeds if seed not in by_ratio[ratio]] for ratio, seeds in plan.seeds.items()}
    metrics: dict[str, Callable[[Scores], float]] = {
        "area": lambda scores: area(accuracies(scores, facts=facts)),
        "final": lambda scores: accuracies(scores, facts=facts)[-1],
        "any_value": lambda scores: scores["curve"][-1]["facts"][str(facts)]["any_value"],
        "final_masked": lambda scores: scores["masked"][str(facts)]["accuracy"],
        "validation_loss": lambda scores: scores["training"]["validation_loss"],
        **{probe.name: partial(probe_accuracy, name=probe.name) for probe in plan.probes},
    }
    values = {
        name: {ratio: {seed: read(scores) for seed, scores in found.items()} for ratio, found in by_ratio.items()}
        for name, read in metrics.items()
    }
    summary = {
        f"{ratio:g}": {
            "seeds": len(found),
            **{name: t_interval([*values[name][ratio].values()]) for name in metrics},
            **{f"tokens_to_{level:g}": reached(found, level, facts=facts) for level in LEVELS},
            "mask_fraction": float(np.mean([scores["training"]["mask_fraction"] for scores in found.values()])),
            "by_place": np.mean([scores["by_place"] for scores in found.values()], axis=0).tolist(),
        }
        for ratio, found in by_ratio.items()
        if found
    }
    # No difference and no p before all seeds of both arms are there: nobody shall stop at a look that pleases.
    contrasts = {
        f"{ratio:g}": {
            name: contrast(values[name][NTP_RATIO], values[name][ratio])
            for name in metrics
            if name not in NOT_CONTRASTED
        }
        for ratio in plan.seeds
        if ratio != NTP_RATIO and not missing[NTP_RATIO] and not missing[ratio]
    }
    primary = contrasts.get(f"{MEAP_RATIO:g}")
    return {
        "label": plan.label,
        "facts": facts,
        "missing": {f"{ratio:g}": seeds for ratio, seeds in missing.items() if seeds},
        "summary": summary,
        "contrasts": contrasts,
        "primary": plan.primary,
        "verdict": verdict(primary[plan.primary]) if primary and plan.label != "smoke" else None,
    }


def reached(found: Mapping[int, Scores], level: float, *, facts: int) -> dict[str, Any]:
    """Return how many arms reached a level, and the median tokens at which; None if the median arm did not."""
    tokens = [tokens_to(scores, level, facts=facts) for scores in found.values()]
    middle = float(np.median([math.inf if value is None else value for value in tokens]))
    return {"arms": sum(value is not None for value in tokens), "median": middle if math.isfinite(middle) else None}
