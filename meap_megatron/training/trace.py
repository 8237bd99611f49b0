"""A record of what every rank read, for finding out where two runs part: one line per micro-batch, one digest per row.

`--meap-trace FOLDER` makes each rank write FOLDER/rank-N.jsonl with {"step", "training", "tokens", "masked"}: CRC-32 of the
bytes of each row of the masked input ids (int64[s]) and of the marks of changed positions (uint8[s]), null where the rank's
pipeline stage holds none. Equal digests on two layouts mean equal batches, bit for bit.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from meap_megatron.training.batch import Batch


def row_digests(rows: torch.Tensor | None) -> list[int] | None:
    """Return the CRC-32 of each row's bytes, None for no tensor."""
    if rows is None:
        return None
    return [zlib.crc32(row.tobytes()) for row in rows.cpu().contiguous().numpy()]


class BatchTrace:
    """Writes the trace of one rank; `step` returns the step that is under way, counted from 1."""

    def __init__(self, folder: str | Path, *, rank: int, step: Callable[[], int]) -> None:
        self.step = step
        path = Path(folder) / f"rank-{rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8")

    def record(self, batch: Batch, *, training: bool) -> None:
        """Append one micro-batch."""
        line: dict[str, Any] = {"step": self.step(), "training": training}
        line |= {"tokens": row_digests(batch.tokens), "masked": row_digests(batch.marks)}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
