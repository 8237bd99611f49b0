"""Which tokens of a needle's answer each head copies, and what that makes of the heads of a model, or of two."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.evaluation.attention.paired import change
from meap_megatron.evaluation.attention.scores import COMPARISONS

MODES = ("generated", "forced")
RETRIEVAL_HEAD = 0.1
"""Mean score from which on a head is called a retrieval head, as published."""
LISTED = 20
"""Heads that are listed in the document."""


def head_scores(
    model: Any, prompt: NDArray[np.int64], answer: NDArray[np.int64], *, span: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return float64[layers, heads]: the share of the span's tokens that each head copies while `answer` is generated.

    One pass over prompt and answer shows the same attention as the generation itself: it is causal.
    """
    import torch

    from meap_megatron.evaluation.attention.observe import most_attended

    if len(answer) == 0:
        return np.zeros((model.config.num_hidden_layers, model.config.num_attention_heads))
    tokens = np.concatenate([prompt, answer])
    most = most_attended(model, torch.from_numpy(tokens[:-1])[None], last=len(answer))[0].numpy()
    return copied(most, tokens, span=span).mean(axis=-1)


def copied(most: NDArray[np.int64], tokens: NDArray[np.int64], *, span: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool[layers, heads, k]: which positions of the span each head copies.

    Given  tokens 5 6 7 8 | 6 7, span [1, 2], and a head whose most attended positions are 1 (where 6 is generated) and 3
    then   it copies the 6 at position 1, not the 7.

    Args:
        most: int64[layers, heads, n], the most attended position where each of the last n tokens is generated.
        tokens: int64[T], prompt and answer.
        span: int64[k], positions.
    """
    generated = tokens[len(tokens) - most.shape[-1] :]
    hits = (most[..., None] == span) & (tokens[span] == generated[:, None])
    return hits.any(axis=-2)


def analyse(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the scores of all heads, and with two models how they differ.

    Args:
        samples: cell -> `generated` and `forced`, float[layers][heads] each, and `recall`, for every prompt.

    Returns:
        `cells`: cell -> recall, and for both ways: scores (means over prompts), `best`, `mean` over heads, number of
        `retrieval_heads`, and the strongest `heads`. `comparisons`: name -> for both ways the `paired.change` of the mean
        over heads (`mean`) and of the strongest head of each (`best`).
    """
    tables = {
        cell: {mode: np.array([sample[cell][mode] for sample in samples]) for mode in MODES} for cell in samples[0]
    }
    cells: dict[str, Any] = {}
    for cell, of_mode in tables.items():
        cells[cell] = {"recall": float(np.mean([sample[cell]["recall"] for sample in samples]))}
        for mode, values in of_mode.items():
            mean = values.mean(axis=0)
            order = np.argsort(-mean, axis=None, kind="stable")[:LISTED]
            places = [tuple(map(int, np.unravel_index(number, mean.shape))) for number in order]
            cells[cell][mode] = {
                "best": float(mean.max()),
                "mean": float(mean.mean()),
                "retrieval_heads": int((mean >= RETRIEVAL_HEAD).sum()),
                "heads": [{"layer": at[0], "head": at[1], "score": float(mean[at])} for at in places if mean[at] > 0],
                "scores": mean.round(4).tolist(),
            }

    def values_of(cell: str, mode: str) -> dict[str, NDArray[np.float64]]:
        found = tables[cell][mode].reshape(len(samples), -1)
        return {"mean": found.mean(axis=1), "best": found[:, found.mean(axis=0).argmax()]}

    pairs = {name: pair for name, pair in COMPARISONS.items() if set(pair) <= set(tables)}
    if "model_masked" in tables:
        pairs = {"input": ("model_clean", "model_masked")}
    comparisons = {
        name: {
            mode: {
                kind: change(values_of(first, mode)[kind], values_of(second, mode)[kind]) for kind in ("mean", "best")
            }
            for mode in MODES
        }
        for name, (first, second) in pairs.items()
    }
    return {"cells": cells, "comparisons": comparisons}
