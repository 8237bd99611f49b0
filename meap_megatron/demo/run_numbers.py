"""Numbers of a run that the report of training runs does not have. Pure functions."""

import statistics
from typing import Any

from meap_megatron.report.history import Results

Record = dict[str, Any]


def mask_fraction(results: Results) -> float | None:
    """Return the mean fraction of the input tokens that were masked."""
    values = [value for _, value in results.points("mask_fraction")]
    return statistics.fmean(values) if values else None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """Return the quotient, None where one of the two is not known."""
    return numerator / denominator if numerator is not None and denominator else None


def parameter_count(settings: Record) -> int:
    """Return the number of parameters of a Llama-shaped model with untied embeddings and no biases.

    Args:
        settings: those of the "start" record.
    """
    hidden, layers = settings["hidden_size"], settings["num_layers"]
    head = hidden // settings["num_attention_heads"]
    attention = hidden * hidden * 2 + 2 * hidden * head * settings["num_query_groups"]
    feed_forward = 3 * hidden * settings["ffn_hidden_size"]
    norms = 2 * hidden
    return 2 * settings["padded_vocab_size"] * hidden + layers * (attention + feed_forward + norms) + hidden
