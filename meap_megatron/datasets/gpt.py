"""Megatron's GPT dataset with masked inputs: `super().__getitem__`, then the mask stage.

Where it can, `assembly` makes the same tensors in C++ at once; what the samples are is said here.

Masking comes after everything that Megatron derives from the tokens (loss mask, attention mask, position ids,
cu_seqlens), so all of it is that of the unmasked sample, and labels are never touched. With ratio 0 or without a
`MaskConfig` every field equals `GPTDataset`'s bit for bit.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split

from meap_megatron.config import MaskConfig
from meap_megatron.datasets.assembly import Assembler, assembler
from meap_megatron.datasets.mask_stage import MaskStage, check_tokenizer, dataset_key, mark_changes
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import Sidecar, check_prefix, read_sidecar
from meap_megatron.masking import STRATEGIES


@dataclass
class MEAPGPTDatasetConfig(GPTDatasetConfig):
    """Megatron's configuration and what to mask.

    Raises:
        UserError: a strategy that follows the optimizer step (`official51`) with a blend of datasets.
    """

    meap: MaskConfig | None = None
    """What to mask; None for plain next-token prediction."""

    mark_changes: bool = False
    """Add to loss_mask which inputs are changed (`mask_stage.mark_changes`). For our trainer, whose batch takes it out
    again; any other would take the marks for loss weights."""

    reset_position_ids: bool | None = False
    reset_attention_mask: bool | None = False
    eod_mask_loss: bool | None = False
    """Off; Megatron wants each of the three given."""

    pairs: bool = False
    """Give each training sample as two rows, clean and masked (`pair.CleanMaskedPairs`); needs mark_changes."""

    content_hash: str | None = field(init=False, default=None)
    """Of the dataset that holds this copy of the configuration; the dataset sets it, for the index cache's key."""

    def __post_init__(self) -> None:
        """Check what the base class does not know."""
        super().__post_init__()
        if self.meap is not None and STRATEGIES[self.meap.strategy].follows_step:
            for prefixes in prefixes_per_blend(self):
                if len(prefixes) > 1:
                    raise UserError(
                        f"strategy {self.meap.strategy!r} with a blend of {len(prefixes)} datasets: its masks follow the "
                        "optimizer step, which a sample of a blend does not know",
                        fix="merge the data (meap merge) or use strategy 'random'",
                    )


class MEAPGPTDataset(GPTDataset):
    """The samples of one split of one indexed dataset, inputs masked as `config.meap` says.

    The mask of a sample is a function of the seed, the content of the dataset, the split and the sample's index:
    not of the order of reading, the worker, the rank, the folder, or the number of epochs read before.
    """

    cached_loss_mask: torch.Tensor | None  # Megatron's; see __getitem__

    def __init__(
        self,
        indexed_dataset: IndexedDataset,
        dataset_path: str,
        indexed_indices: np.ndarray,
        num_samples: int | None,
        index_split: Split,
        config: MEAPGPTDatasetConfig,
    ) -> None:
        check_not_empty(indexed_dataset, dataset_path, indexed_indices, index_split, config)
        # Megatron keys its cached indices by attributes of the configuration, which all datasets of a blend share.
        # A copy per dataset carries the content hash into the key of this dataset and of the blend.
        config = copy.copy(config)
        config.content_hash = self._content_hash(dataset_path)
        super().__init__(indexed_dataset, dataset_path, indexed_indices, num_samples, index_split, config)
        mask = config.meap
        self.mask_stage: MaskStage | None = None
        if mask is not None and mask.schedule.highest > 0 and (index_split == Split.train or mask.mask_validation):
            self.mask_stage = MaskStage(
                mask=mask,
                dataset_key=dataset_key(config.content_hash, index_split.name),
                num_samples=max(1, len(self) if num_samples is None else num_samples),
            )

    @staticmethod
    def build_low_level_dataset(dataset_path: str, config: MEAPGPTDatasetConfig) -> IndexedDataset:
        """Check the prefix against its sidecar and against the configuration, then open it.

        Raises:
            UserError: no sidecar, a truncated or foreign file, or data that this configuration cannot train on.
        """
        check_matches(check_prefix(dataset_path), dataset_path, config)
        return GPTDataset.build_low_level_dataset(dataset_path, config)

    @staticmethod
    def _content_hash(dataset_path: str) -> str:
        return read_sidecar(dataset_path).content_hash

    @staticmethod
    def _key_config_attributes() -> list[str]:
        """Return the attributes that decide the cached indices: Megatron's, those it forgets, and the content.

        What is masked is not among them: indices do not depend on it, and NTP and MEAP arms share them.
        """
        forgotten = ["add_extra_token_to_sequence", "drop_last_partial_validation_sequence"]
        return [*GPTDataset._key_config_attributes(), *forgotten, "content_hash"]

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        """Return one sample: Megatron's fields, `tokens` int64[sequence_length] masked.

        Args:
            idx: index of the sample; None for a batch-padding sample, which has no loss and no mask.

        Raises:
            IndexError: no such sample.
            UserError: an index points outside the data.
        """
        if self._assembler is not None:
            return self._assembler.sample(idx)
        sample: dict[str, torch.Tensor] = super().__getitem__(idx)
        if sample["loss_mask"] is self.cached_loss_mask:
            # The first sample is handed Megatron's cached loss mask itself, its padding written into it: from then on
            # every sample would lose the loss of those positions. What is cached is a mask of ones.
            self.cached_loss_mask = torch.ones_like(sample["loss_mask"])
        if self.mask_stage is None or idx is None:
            return sample
        sample_index = int(idx) if idx >= 0 else int(idx) + len(self)  # -1 is the last sample, as for Megatron
        is_last = int(self.shuffle_index[sample_index]) == len(self.shuffle_index) - 1
        num_real = self._num_real_of_last if is_last else self.config.sequence_length
        tokens, changed = self.mask_stage.apply(
            sample["tokens"].numpy(),
            sample_index=sample_index,
            num_real=num_real,
            document_tokens=self._document_tokens(sample_index) if self.mask_stage.mask.min_document_tokens else None,
        )
        sample["tokens"] = torch.from_numpy(tokens)
        if self.config.mark_changes:
            sample["loss_mask"] = torch.from_numpy(mark_changes(sample["loss_mask"].numpy(), changed))
        return sample

    def _document_tokens(self, sample_index: int) -> np.ndarray:
        """Return int64[sequence_length]: how many tokens the document of each input position has, 0 for padding."""
        place = self.shuffle_index[sample_index]
        (first, first_offset), (last, last_offset) = self.sample_index[place : place + 2].tolist()
        lengths = self.dataset.sequence_lengths[self.document_index[first : last + 1]].astype(np.int64)
        parts = lengths.copy()
        parts[-1] = last_offset + int(self.config.add_extra_token_to_sequence)
        parts[0] -= first_offset
        spread = np.repeat(lengths, parts)[: self.config.sequence_length]
        return np.pad(spread, (0, self.config.sequence_length - spread.size))

    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, torch.Tensor]]:
        """Return the samples of one micro-batch; torch's DataLoader calls this instead of `__getitem__`.

        Args:
            indices: of the samples, as a batch sampler gives them.
        """
        # Hybrid context parallel wants samples in a list, which it sorts and splits itself.
        if self._assembler is None or self.config.hybrid_context_parallel or None in indices:
            return [self[index] for index in indices]
        return self._assembler.micro_batch(indices)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what cannot travel to another process; it is made again there."""
        return {name: value for name, value in self.__dict__.items() if name != "_assembler"}

    @cached_property
    def _assembler(self) -> Assembler | None:
        """The native path, where there is one. Subclasses may change what Megatron's path reads, so they keep it."""
        if type(self) is not MEAPGPTDataset:
            return None
        num_real = self.config.sequence_length if self.mask_stage is None else self._num_real_of_last
        return assembler(self, self.mask_stage, num_real_of_last=num_real)

    @cached_property
    def _num_real_of_last(self) -> int:
        """How many input positions hold data that has a label, in the sample at the last place of the stream.

        Only that one may be shorter than the sequence, and only in the valid split. Samples lie end to end in the
        stream of documents, so its length follows from its place there: by position, never by comparing ids.
        """
        length = self.config.sequence_length
        if self.config.drop_last_partial_validation_sequence or self.index_split != Split.valid:
            return length
        num_tokens = int(self.dataset.sequence_lengths[self.document_index].sum(dtype=np.int64))
        num_before = (len(self.shuffle_index) - 1) * length
        return min(length, num_tokens - num_before - int(self.config.add_extra_token_to_sequence))


def prefixes_per_blend(config: GPTDatasetConfig) -> list[list[str]]:
    """Return the dataset prefixes of each blend of a configuration; an empty list for mock data."""
    blends = [config.blend] if config.blend is not None else (config.blend_per_split or [])
    return [list(blend[0]) for blend in blends if blend is not None]


def check_matches(sidecar: Sidecar, prefix: str, config: MEAPGPTDatasetConfig) -> None:
    """Check that the data of a prefix can be trained on with this configuration.

    Raises:
        UserError: the data is of another kind, of another tokenizer, or lacks what the configuration relies on.
    """
    if sidecar.kind != "text":
        raise UserError(
            f"{prefix} holds {sidecar.kind!r} data; pre-training reads data of 'meap preprocess text'",
            fix="make it with `meap preprocess text`",
        )
    tokenizer: Any = config.tokenizer
    check_tokenizer(sidecar, prefix, tokenizer, mask_id=None if config.meap is None else config.meap.mask_id)
    if tokenizer.vocab_size < sidecar.tokenizer.vocab_size:
        raise UserError(
            f"{prefix} has ids up to {sidecar.tokenizer.vocab_size - 1}, the vocabulary of this run has "
            f"{tokenizer.vocab_size} rows",
            fix="use the tokenizer saved beside the data",
        )
    if not sidecar.add_eos or sidecar.tokenizer.eos_id is None:
        for name in ("reset_position_ids", "reset_attention_mask", "eod_mask_loss"):
            if getattr(config, name):
                raise UserError(
                    f"{name} is set, but the documents of {prefix} do not end with an EOS token, so it would do "
                    "nothing",
                    fix="make the data with EOS or leave the option out",
                )


def check_not_empty(
    dataset: IndexedDataset, prefix: str | None, documents: np.ndarray, split: Split, config: GPTDatasetConfig
) -> None:
    """Refuse a split without a token, over which Megatron's index builder would loop for ever."""
    if np.any(dataset.sequence_lengths[documents] > 0):
        return
    count = len(dataset.sequence_lengths)
    raise UserError(
        f"the {split.name} split of {prefix} is empty: {count:,} documents, split {config.split}",
        fix="give that split a larger share, or none (split=100,0,0 with eval_iters=0)",
    )
