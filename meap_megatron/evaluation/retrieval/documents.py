"""What all tasks share: the documents that the harness iterates over, and options that arrive as metadata."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from meap_megatron.errors import UserError

PLACEHOLDER = "Answer:"
"""Prompt of a sample that does not fit the model: the harness needs one, its answer is not scored."""


def dataset(documents: Sequence[Mapping[str, Any]], *, task: str) -> dict[str, Any]:
    """Return documents in the form that the harness reads, as the split `test`.

    Raises:
        UserError: there are none.
    """
    import datasets

    if not documents:
        raise UserError(f"{task}: no samples", fix="check the data and --limit")
    return {"test": datasets.Dataset.from_list([dict(document) for document in documents])}


def scored(score: Callable[[Mapping[str, Any], str], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Make a function of sample and answer the harness's `process_results`.

    A sample that does not fit the model is counted, and scores nothing.
    """

    @wraps(score)
    def process_results(document: Mapping[str, Any], results: list[str]) -> dict[str, Any]:
        return {**score(document, results[0]), "unfit": 0.0} if document["fits"] else {"unfit": 1.0}

    return process_results


def total(values: Sequence[float]) -> float:
    """Return the sum: how the harness adds up the samples that did not fit."""
    return float(sum(values))


def numbers(value: Any, *, name: str, kind: type = int) -> list[Any]:
    """Read a list of numbers from metadata: a list, one number, or text with commas or colons.

    Raises:
        UserError: it is none of these, or a number is negative.
    """
    parts = str(value).replace(":", ",").split(",") if isinstance(value, str) else value
    try:
        read = [kind(part) for part in (parts if isinstance(parts, (list, tuple)) else [parts])]
    except (TypeError, ValueError):
        raise UserError(f"{name} must be numbers, found {value!r}", fix=f"write them as in {name}=1024,4096") from None
    if not read or min(read) < 0:
        raise UserError(f"{name} must be one or more numbers from 0 on, found {value!r}")
    return read


def count(value: Any, *, name: str) -> int | None:
    """Read an optional count of at least 1 from metadata.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    try:
        read = int(value)
    except (TypeError, ValueError):
        read = 0
    if read < 1:
        raise UserError(f"{name} must be a whole number of at least 1, found {value!r}")
    return read
