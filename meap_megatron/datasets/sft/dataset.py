"""The fine-tuning dataset that Megatron's builder builds: row i is a function of the configuration and the data only.

Not of the worker, the order of reading, the number of data-parallel ranks, or the point of resumption; and the rows of
an epoch do not depend on how many epochs a run has.
"""

import copy
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.blended_megatron_dataset_config import BlendedMegatronDatasetConfig
from megatron.core.datasets.megatron_dataset import MegatronDataset
from megatron.core.datasets.utils import Split
from numpy.typing import NDArray

from meap_megatron import _C
from meap_megatron.atomic import disk_errors
from meap_megatron.datasets.mask_stage import check_tokenizer, dataset_key
from meap_megatron.datasets.sft import array_cache
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.data import SFTData, check_lengths, open_sft
from meap_megatron.datasets.sft.packing import RowIndex, build_index, effective, packing_key
from meap_megatron.errors import RunError, UserError
from meap_megatron.indexed.sidecar import Sidecar

logger = logging.getLogger(__name__)


@dataclass
class MEAPSFTDatasetConfig(BlendedMegatronDatasetConfig):
    """Megatron's configuration and what the rows hold.

    Raises:
        UserError: no `sft`, or no data.
    """

    sft: SFTConfig = None  # type: ignore[assignment]
    """Required; has a default only because Megatron's fields before it have some."""

    mark_changes: bool = False
    """Add to loss_mask which inputs are changed (`mask_stage.mark_changes`); for our trainer."""

    content_hash: str | None = field(init=False, default=None)
    """Of the dataset that holds this copy of the configuration; the dataset sets it, for the index cache's key."""

    packing: str | None = field(init=False, default=None)
    """The settings that decide the index, likewise."""

    def __post_init__(self) -> None:
        """Check what the base class does not know."""
        super().__post_init__()
        if self.sft is None:
            raise UserError("MEAPSFTDatasetConfig has no sft", fix="give an SFTConfig")
        if self.mock:
            raise UserError("fine-tuning has no mock data", fix="give a prefix made by 'meap preprocess sft'")


class MEAPSFTDataset(MegatronDataset):
    """The rows of one split of one prefix.

    Files are always read through memory maps, whatever `mmap_bin_files` says.
    """

    def __init__(
        self,
        dataset: SFTData,
        dataset_path: str,
        indices: NDArray[np.int32],
        num_samples: int | None,
        index_split: Split,
        config: MEAPSFTDatasetConfig,
    ) -> None:
        self.sft = effective(config.sft, is_train=index_split == Split.train)
        # As in MEAPGPTDataset: a copy per dataset carries what decides the index into Megatron's keys.
        config = copy.copy(config)
        config.content_hash = dataset.sidecar.content_hash
        config.packing = packing_key(self.sft)
        super().__init__(dataset, dataset_path, indices, num_samples, index_split, config)
        self.dataset_key = dataset_key(config.content_hash, index_split.name)
        self.index, self.summary = self._load_or_build_index()
        self._rows: _C.SFTRows | None = None

    @staticmethod
    def build_low_level_dataset(dataset_path: str, config: MEAPSFTDatasetConfig) -> SFTData:
        """Check the prefix against its sidecar and against the configuration, and open it.

        Raises:
            UserError: data that is incomplete, of another kind, or not fit for this configuration.
        """
        data = open_sft(dataset_path)
        check_matches_sft(data.sidecar, dataset_path, config)
        check_lengths(
            data.ids.lengths,
            prefix=data.prefix,
            over_long=config.sft.over_long,
            sequence_length=config.sequence_length,
        )
        return data

    @staticmethod
    def numel_low_level_dataset(low_level_dataset: SFTData) -> int:
        """Return the number of conversations: splits are made of whole ones."""
        return len(low_level_dataset)

    @staticmethod
    def _key_config_attributes() -> list[str]:
        """Return the attributes that decide the index; ratio, masks and loss on the copy are not among them."""
        return [*MegatronDataset._key_config_attributes(), "content_hash", "packing"]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        """Return one row of S = sequence_length positions.

        Args:
            idx: index of the row; None for a batch-padding row, which has no loss.

        Returns:
            tokens: int64[S], masked in the copies, padding at the end.
            labels: int64[S], the next token of the segment, never masked.
            loss_mask: float32[S], 1 where the label is trained, with `mark_changes` what is changed added.
            position_ids: int64[S], from 0 in each segment.
            cu_seqlens: int32[S + 1], where segments start, padding being the last one; then S as often as needed.
            max_seqlen: int32[], positions of the longest segment.
            num_segments: int32[], segments without padding.
        """
        index = 0 if idx is None else int(idx)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        items, epoch = self.index.row(index % len(self))
        if self._rows is None:
            self._rows = self._make_rows()
        arrays = self._rows.row(items, epoch if self.sft.refresh == "per_epoch" else 0)
        tokens, labels, loss_mask, position_ids, cu_seqlens, max_seqlen = map(torch.from_numpy, arrays)
        return {
            "tokens": tokens,
            "labels": labels,
            "loss_mask": torch.zeros_like(loss_mask) if idx is None else loss_mask,
            "position_ids": position_ids,
            "cu_seqlens": cu_seqlens,
            "max_seqlen": max_seqlen,
            "num_segments": torch.tensor(len(items), dtype=torch.int32),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what cannot travel to another process; it is made again there."""
        return self.__dict__ | {"_rows": None}

    def _make_rows(self) -> _C.SFTRows:
        sft = self.sft
        return _C.SFTRows(
            self.dataset.native,
            config=sft,
            sequence_length=self.config.sequence_length,
            dataset_key=self.dataset_key,
            mark_changes=self.config.mark_changes,
            mask_offsets=self.index.mask_offsets,
            mask_positions=self.index.mask_positions,
            first_conversation=int(self.indices[0]) if len(self.indices) else 0,
        )

    def _load_or_build_index(self) -> tuple[RowIndex, dict[str, Any]]:
        """Return the index: from the cache, or built by rank 0, after which the builder's barrier lets others read."""
        folder = Path(
            self.config.path_to_cache or Path(self.dataset.prefix) / "cache" / f"{type(self).__name__}_indices"
        )
        base = f"{self.unique_description_hash}-{type(self).__name__}-{self.index_split.name}"
        entry = array_cache.load(folder, base)
        if entry is None:
            if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
                raise RunError(
                    f"{folder} does not hold the index that rank 0 has made ({base}): the folder is not shared "
                    "between the machines",
                    fix="set data_cache_path to one that is",
                )
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            arrays, summary = build_index(
                self.dataset,
                self.indices,
                config=self.sft,
                sequence_length=self.config.sequence_length,
                num_rows=self.num_samples,
                order_seed=self.config.random_seed,
                folder=folder,
            )
            array_cache.store(folder, base, arrays, summary, description=self.unique_description)
            logger.info("packed the %s split of %s: %s", self.index_split.name, self.dataset.prefix, summary)
            entry = array_cache.load(folder, base) or (arrays, summary)
        arrays, summary = entry
        return RowIndex(**arrays), summary


def check_matches_sft(sidecar: Sidecar, prefix: str, config: MEAPSFTDatasetConfig) -> None:
    """Check that the data of a prefix can be trained on with this configuration.

    Raises:
        UserError: the data is of another tokenizer, or an id of the configuration is not one of it.
    """
    sft, info = config.sft, sidecar.tokenizer
    check_tokenizer(sidecar, prefix, config.tokenizer, mask_id=sft.mask_id)
    if sft.pad_id >= info.vocab_size:
        raise UserError(f"pad_id is {sft.pad_id}, the vocabulary of {prefix} has {info.vocab_size} ids")
