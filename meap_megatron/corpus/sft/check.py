"""Check and join the roles of fine-tuning data: the part of `meap verify` and `meap merge` that text has not."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from meap_megatron.corpus.sft.histogram import BOUNDS, as_table
from meap_megatron.errors import UserError
from meap_megatron.indexed.idx_header import read_header
from meap_megatron.indexed.pair import IndexedReader, open_pair
from meap_megatron.indexed.roles import CUT, UNMASKED
from meap_megatron.indexed.sidecar import Sidecar, bin_path, idx_path, roles_prefix

ROWS = 4096  # rows whose roles are looked at together
KNOWN = f"known are 0 to {UNMASKED}, and from {CUT} where an answer is cut at the end of its row"
OPTIONS = ("template", "template_fingerprint", "date", "multi_turn", "max_length", "over_long", "min_answer_words")
Report = Callable[[str, bool, str], bool]  # name, passed, detail; gives back `passed`


def check_roles(prefix: str | Path, pair: IndexedReader, sidecar: Sidecar, check: Report) -> None:
    """Check that there is a role for each token, that all are known, and that every row trains something.

    The role of a cut answer is known at the end of a row only.

    Args:
        prefix: prefix of the dataset.
        pair: the ids, whose structure was checked.
        sidecar: the sidecar.
        check: takes the name, whether it passed, and the detail of each check.
    """
    roles_at = roles_prefix(prefix)
    try:
        header = read_header(idx_path(roles_at))
    except UserError as error:
        check("roles header", False, str(error))
        return
    fits = header.dtype == "uint8" and header.num_sequences == len(pair)
    found = f"{header.dtype}, {header.num_sequences:,} sequences"
    if not check("roles header", fits, found if fits else f"{found}; the ids have {len(pair):,}"):
        return
    if not bin_path(roles_at).is_file():
        check("roles", False, f"{bin_path(roles_at)} does not exist")
        return
    roles = open_pair(roles_at)
    same = len(roles.tokens) == len(pair.tokens) and np.array_equal(roles.lengths, pair.lengths)
    same = same and np.array_equal(roles.pointers, pair.pointers // pair.dtype.itemsize)
    detail = "a role for each token" if same else "the lengths of the rows differ from those of the ids"
    if not check("roles aligned", bool(same), detail):
        return
    unknown = untrained = None
    num_trained = 0
    for start in range(0, len(pair), ROWS):
        starts = roles.pointers[start : start + ROWS]
        block = roles.tokens[starts[0] : starts[-1] + roles.lengths[start + len(starts) - 1]]
        trained = np.add.reduceat(block != 0, starts - starts[0], dtype=np.int64)
        num_trained += int(trained.sum())
        if unknown is None and block.max() > UNMASKED:
            wrong = block > UNMASKED
            last = starts - starts[0] + roles.lengths[start : start + len(starts)] - 1
            wrong[last] &= block[last] < CUT
            if wrong.any():
                position = int(starts[0]) + int(np.argmax(wrong))
                unknown = f"role {roles.tokens[position]} at token {position:,}; {KNOWN}"
        if untrained is None and not trained.all():
            untrained = f"row {start + int(np.argmin(trained)):,} has no token to train"
    check("roles known", unknown is None, unknown or KNOWN)
    check("rows trained", untrained is None, untrained or "every row trains a token")
    stated = (sidecar.sft or {}).get("num_trained_tokens")
    agree = num_trained == stated
    check("trained tokens", agree, f"{num_trained:,}" + ("" if agree else f", the sidecar says {stated:,}"))


def merged_fields(prefixes: list[str], sidecars: list[Sidecar]) -> dict[str, Any]:
    """Return the sidecar's field `sft` of joined datasets, without the sizes of the roles.

    Raises:
        UserError: they differ in an option.
    """
    records = [sidecar.sft or {} for sidecar in sidecars]
    options = ({name: record.get(name) for name in OPTIONS} for record in records)
    check_same(prefixes, options, fix="make both with the same options")
    first = records[0]
    num_trained = sum(record["num_trained_tokens"] for record in records)
    num_tokens = sum(sidecar.num_tokens for sidecar in sidecars)
    histogram = dict.fromkeys(BOUNDS, 0)
    for record in records:
        for bound, count in record["answer_length_histogram"]:
            histogram[bound] = histogram.get(bound, 0) + count
    return {
        **{name: first[name] for name in OPTIONS if name in first},
        "counts": {name: sum(record["counts"].get(name, 0) for record in records) for name in first["counts"]},
        "num_trained_tokens": num_trained,
        "trained_share": trained_share(num_trained, num_tokens),
        "answer_length_histogram": as_table(list(histogram.values())),
    }


def check_same(prefixes: list[str], records: Iterable[dict[str, Any]], *, fix: str) -> None:
    """Refuse to merge datasets that differ from the first in a value.

    Args:
        prefixes: of the datasets.
        records: what each must have in common with the others, by the names in the message.

    Raises:
        UserError: names the value.
    """
    first: dict[str, Any] | None = None
    for prefix, record in zip(prefixes, records, strict=True):
        first = first or record
        for name, value in record.items():
            if value != first[name]:
                raise UserError(
                    f"{prefix} and {prefixes[0]} cannot be merged: {name} is {value!r} in the one and "
                    f"{first[name]!r} in the other",
                    fix=fix,
                )


def trained_share(num_trained: int, num_tokens: int) -> float:
    """Return the share of trained tokens as the sidecar holds it."""
    return round(num_trained / max(1, num_tokens), 6)
