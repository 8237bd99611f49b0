"""`meap preprocess text --length-upsample`: encode candidates in any number of processes, then apply the budgets in order.

Workers write the candidates of their shard and a row per document they read. Which candidates are taken is settled once, at
publication, in the order of the input (`Selection`). Until then the results of the first shards, without a gap, say
which sources have met their budget: such documents are not read any further, and when all have, the run is over. That saves
work only; what comes after a met budget would not be taken anyway.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.atomic import disk_errors
from meap_megatron.corpus.settings import PreprocessConfig
from meap_megatron.corpus.shard import part_file, part_files
from meap_megatron.corpus.terminal import say
from meap_megatron.corpus.text_work import TextWork
from meap_megatron.corpus.upsample.candidates import ROWS, UpsampleEncoder, UpsampleResult
from meap_megatron.corpus.upsample.selection import ROW, Selection, Upsample, report, source_of_file, unmet
from meap_megatron.corpus.workers import Numbered
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar

LISTED = 8  # unknown sources that a note names


class UpsampleWork(TextWork[UpsampleResult]):
    """Documents of text, a part of them."""

    unit = "document that a source of the mixture keeps"
    result_type = UpsampleResult
    joins_in_order = False

    def __init__(self, config: PreprocessConfig, options: Upsample) -> None:
        if config.shard is not None:
            raise UserError(
                "--shard with --length-upsample: the budgets are met in the order of the whole input, which one task of an "
                "array does not see",
                fix="run it as one job with as many --workers as the machine has (it stops reading when "
                "the budgets are met)",
            )
        super().__init__(config)
        self.options = options
        self.plan["length_upsample"] = dataclasses.asdict(options)

    def shard_encoder(self, folder: Path, encoder: str) -> UpsampleEncoder:
        """Return what encodes the shards into a work folder."""
        return UpsampleEncoder(**vars(super().shard_encoder(folder, encoder)))

    def upcoming(self, waiting: list[Numbered], results: dict[int, UpsampleResult]) -> Iterator[Numbered]:
        """Give the shards, without what comes after a met budget, until all budgets are met."""
        names, budgets = list(self.options.mixture), self.options.budgets()
        taken = [0] * len(names)
        ahead = iter([number for number, _ in self.shards])
        following = next(ahead, None)
        passed: set[int] = set()
        for number, shard in waiting:
            while following in results or following in passed:
                if following in results:
                    taken = [a + b for a, b in zip(taken, results[following].sizes, strict=True)]
                following = next(ahead, None)
            met = frozenset(name for name, size, budget in zip(names, taken, budgets, strict=True) if size >= budget)
            if len(met) == len(names):
                return
            chunks = tuple(
                dataclasses.replace(chunk, without=met)
                for chunk in shard
                if source_of_file(chunk.file.path, self.options.source) not in met
            )
            if chunks:
                yield number, chunks
            else:
                passed.add(number)

    def report(self, results: list[UpsampleResult]) -> None:
        """Say which documents belong to no source of the mixture."""
        super().report(results)
        unknown = Counter[str]()
        for result in results:
            unknown.update(result.unknown_sources)
        if unknown:
            listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(unknown.items())[:LISTED])
            more = "" if len(unknown) <= LISTED else f" and {len(unknown) - LISTED} more sources"
            left_out = f"{unknown.total():,} documents of sources that the mixture does not name are left out"
            say(f"note: {left_out}: {listed}{more}")

    def outcome(self, results: list[UpsampleResult]) -> tuple[str, int, int]:
        """Return how many documents were read, taken or not."""
        others = sum(
            result.num_rows - result.num_documents + sum(result.unknown_sources.values()) for result in results
        )
        unit, read, truncated = super().outcome(results)
        return unit, read + others, truncated

    def publish(self, folder: Path, results: list[UpsampleResult], encoder: str, **fields: Any) -> Sidecar:
        """Apply the budgets in the order of the input, and join what is taken."""
        selection = Selection(self.options.budgets())
        files = []
        for result in results:
            rows = np.fromfile(part_file(folder, result.shard, ROWS), dtype=ROW)
            taken = selection.take(rows)[rows["candidate"]]
            files.append(only(part_files(folder, result.shard), taken, dtype=self.plan["dtype"]))
        made = report(self.options, selection)
        if warning := unmet(made):
            say(f"warning: {warning}")
        kept = int(selection.kept[:, 0].sum())
        return super().publish(folder, results, encoder, files=files, num_documents=kept, upsample=made, **fields)


def only(pair: tuple[Path, Path], taken: NDArray[np.bool_], *, dtype: str) -> tuple[Path, Path]:
    """Return the pair itself if all its documents are taken, else a copy of those that are.

    Args:
        pair: files of token ids and of int32 lengths.
        taken: bool[n], which of the n documents.
        dtype: type of a token id.
    """
    if taken.all():
        return pair
    lengths = np.fromfile(pair[1], dtype=np.int32)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    # Bounds of the runs of neighbours that are taken.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], taken, [False]]))).reshape(-1, 2)
    copies = (pair[0].with_suffix(".taken.bin"), pair[1].with_suffix(".taken.lengths"))
    with disk_errors(copies[0]), copies[0].open("wb") as stream:
        tokens = np.memmap(pair[0], dtype, "r")
        for start, stop in edges:
            stream.write(memoryview(np.ascontiguousarray(tokens[ends[start] : ends[stop]])).cast("B"))
        copies[1].write_bytes(lengths[taken].tobytes())
    return copies
