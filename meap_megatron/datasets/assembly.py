"""Whole samples in C++: the same tensors as `GPTDataset.__getitem__` and the mask stage, from the memory maps at once.

`assembler` says which datasets it can serve; all others go Megatron's way. The C++ is csrc/gpt/sample.hpp.

A micro-batch leaves as a `MicroBatch`. torch's DataLoader asks `__getitems__` for it and hands it to its collate
function, which finds the function registered here for its rows: the tensors of the batch pass through, where torch
would stack copies of single samples.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset, get_bin_path
from numpy.typing import NDArray
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from meap_megatron import _C
from meap_megatron.datasets.mask_stage import MaskStage
from meap_megatron.errors import UserError

# Of the ids, the document index, the sample index and the shuffle index: all that Megatron writes for text.
KNOWN_TYPES = ((np.uint16, np.int32), (np.int32,), (np.int32, np.int64), (np.uint32, np.int64))


@dataclass(frozen=True, kw_only=True)
class SampleArrays:
    """The arrays of one split, none of them copied; csrc/gpt/bindings.hpp reads them by name."""

    ids: NDArray
    """uint16 or int32: the whole .bin."""
    pointers: NDArray[np.int64]
    """int64[documents], bytes into ids."""
    lengths: NDArray[np.int32]
    """int32[documents], tokens."""
    document_index: NDArray[np.int32]
    """int32[entries]."""
    sample_index: NDArray
    """int32 or int64 [samples + 1, 2]."""
    shuffle_index: NDArray
    """uint32 or int64 [samples]."""
    owners: object
    """What keeps the memory maps open."""


@dataclass(frozen=True, kw_only=True)
class SampleRules:
    """How samples are made of the arrays; csrc/gpt/bindings.hpp reads them by name."""

    sequence_length: int
    add_extra_token: bool
    pad_id: int
    eod_id: int
    eod_mask_loss: bool
    reset_position_ids: bool
    mark_changes: bool
    has_segments: bool
    num_real_of_last: int
    """Input positions with a label, in the sample at the last place of the stream."""


class SampleFields(dict[str, torch.Tensor]):
    """One sample of a micro-batch; a type of its own, by which torch's collate function knows it."""


class MicroBatch(Sequence[SampleFields]):
    """The samples of one micro-batch, as views of tensors with one row per sample.

    Attributes:
        fields: name -> [num_samples, ...], contiguous.
    """

    def __init__(self, fields: dict[str, torch.Tensor]) -> None:
        self.fields = fields

    def __len__(self) -> int:
        return len(self.fields["tokens"])

    @overload
    def __getitem__(self, index: int) -> SampleFields: ...
    @overload
    def __getitem__(self, index: slice) -> list[SampleFields]: ...
    def __getitem__(self, index: int | slice) -> SampleFields | list[SampleFields]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return SampleFields({name: tensor[index] for name, tensor in self.fields.items()})


def collate_rows(batch: Sequence[SampleFields], *, collate_fn_map: dict | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a micro-batch: its own if the rows are all of it, else stacked ones."""
    if isinstance(batch, MicroBatch):
        return batch.fields
    return {name: collate([row[name] for row in batch], collate_fn_map=collate_fn_map) for name in batch[0]}


default_collate_fn_map[SampleFields] = collate_rows


class Assembler:
    """Makes the samples of one split of one dataset.

    Which tensors are shared between samples is Megatron's rule: `position_ids` and `attention_mask` are one object for
    all samples if no option changes masks or positions inside a sample, and without masked inputs `tokens` and `labels`
    are views of one buffer.
    """

    def __init__(self, dataset: GPTDataset, stage: MaskStage | None, *, num_real_of_last: int) -> None:
        config, data = dataset.config, dataset.dataset
        length = config.sequence_length
        has_segments = bool(config.inter_document_masking)
        # What no sample changes is made once, here.
        self._constant: dict[str, torch.Tensor] = {}
        if config.create_attention_mask and not has_segments:
            self._constant["attention_mask"] = torch.ones(1, length, length, dtype=torch.bool).triu_(diagonal=1)
        if not (has_segments or config.reset_position_ids):
            self._constant["position_ids"] = torch.arange(length, dtype=torch.long)
        self._is_shared = not (config.reset_position_ids or config.reset_attention_mask or config.eod_mask_loss)
        self._where = f"the {dataset.index_split.name} split of {dataset.dataset_path}"
        arrays = SampleArrays(
            ids=_all_ids(data),
            pointers=data.index.sequence_pointers,
            lengths=data.index.sequence_lengths,
            document_index=dataset.document_index,
            sample_index=dataset.sample_index,
            shuffle_index=dataset.shuffle_index,
            # Both close their memory maps when they are deleted, whoever still looks into them.
            owners=(data.bin_reader, data.index),
        )
        rules = SampleRules(
            sequence_length=length,
            add_extra_token=bool(config.add_extra_token_to_sequence),
            pad_id=dataset._pad_token_id,
            eod_id=config.tokenizer.eod,
            eod_mask_loss=bool(config.eod_mask_loss),
            reset_position_ids=bool(config.reset_position_ids),
            mark_changes=bool(config.mark_changes),
            has_segments=has_segments,
            num_real_of_last=num_real_of_last,
        )
        try:
            # Wrapped in C++: three calls and a dict in Python take a microsecond.
            self._samples = _C.GPTSamples(arrays=arrays, rules=rules, stage=stage, wrap=torch.from_numpy)
        except RuntimeError as error:
            raise self._damaged(error) from None

    def sample(self, index: int | None) -> dict[str, torch.Tensor]:
        """Return one sample, fields as `GPTDataset.__getitem__`.

        Args:
            index: of the sample, from -n to n-1; None for a batch-padding sample, which has no loss and no mask.

        Raises:
            IndexError: no such sample.
            UserError: the index of the data, or Megatron's cached one, points outside the data.
        """
        try:
            sample = self._samples.sample(0 if index is None else index, index is None)
        except RuntimeError as error:
            raise self._damaged(error) from None
        if self._is_shared:
            sample.update(self._constant)
        else:
            sample.update((name, tensor.clone()) for name, tensor in self._constant.items())
        return sample

    def micro_batch(self, indices: Sequence[int]) -> MicroBatch:
        """Return the samples of these indices as one micro-batch, equal to `sample` of each; errors as there."""
        try:
            fields = self._samples.batch(indices)
        except RuntimeError as error:
            raise self._damaged(error) from None
        if (attention_mask := self._constant.get("attention_mask")) is not None:
            fields["attention_mask"] = torch.stack([attention_mask] * len(indices))
        return MicroBatch(fields)

    def _damaged(self, error: RuntimeError) -> UserError:
        return UserError(
            f"{self._where} cannot be read: {error}; the .idx file or the cached index is damaged, or of other data",
            fix="run `meap verify` on the data, and delete the cached *_index.npy files, which are then made again",
        )


def assembler(dataset: GPTDataset, stage: MaskStage | None, *, num_real_of_last: int) -> Assembler | None:
    """Return what makes the samples of a dataset, or None if the configuration is left to Megatron.

    Left to Megatron: data that is not in local memory maps of uint16 or int32 ids, indices that are opened late
    (`defer_npy_index_mmap`), and the dense attention mask that differs between samples (`reset_attention_mask`).

    Args:
        dataset: one that adds nothing to `GPTDataset.__getitem__` but the mask stage.
        stage: what to mask, None for nothing.
        num_real_of_last: input positions with a label at the last place of the stream.

    Raises:
        UserError: the three index arrays do not belong together.
    """
    config, data = dataset.config, dataset.dataset
    if type(data) is not IndexedDataset or not data.mmap or data.multimodal or dataset.shuffle_index is None:
        return None
    if config.reset_attention_mask and config.create_attention_mask:
        return None
    types = (data.index.dtype, dataset.document_index.dtype, dataset.sample_index.dtype, dataset.shuffle_index.dtype)
    if not all(found in known for found, known in zip(types, KNOWN_TYPES, strict=True)):
        return None
    return Assembler(dataset, stage, num_real_of_last=num_real_of_last)


def _all_ids(data: IndexedDataset) -> NDArray:
    """Return the whole .bin as one array, not copied."""
    num_ids = os.path.getsize(get_bin_path(data.path_prefix)) // np.dtype(data.index.dtype).itemsize
    return data.bin_reader.read(dtype=data.index.dtype, count=num_ids, offset=0)
