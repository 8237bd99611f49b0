"""Each sample twice, clean and masked, as two rows that follow each other: for training over repeated data.

Row 2k is sample k with clean inputs, row 2k + 1 the same sample with masked ones. A global batch of 2n rows in the
order of the samples therefore holds n samples both ways. Both rows come from datasets with one index, so that a run
with pairs reads the samples of a run without in the same order.
"""

from typing import Any

import torch

MASKED_ROW = 8.0
"""What the masked row adds to every entry of its loss mask, beside the marks of `mask_stage.mark_changes`."""


class CleanMaskedPairs(torch.utils.data.Dataset):
    """The rows of a split.

    Args:
        masked: the same samples, masked, with marked changes.
    """

    def __init__(self, clean: Any, masked: Any) -> None:
        assert len(clean) == len(masked)
        self.clean, self.masked = clean, masked

    def __len__(self) -> int:
        return 2 * len(self.clean)

    def __getitem__(self, index: int | None) -> dict[str, torch.Tensor]:
        """Return a row: the fields of its sample.

        Args:
            index: of the row; None for a batch-padding row, which has no loss.
        """
        if index is None:
            return self.clean[None]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        sample, is_masked = divmod(index % len(self), 2)
        if not is_masked:
            return self.clean[sample]
        row = dict(self.masked[sample])
        row["loss_mask"] = row["loss_mask"] + MASKED_ROW
        return row
