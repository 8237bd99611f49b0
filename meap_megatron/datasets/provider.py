"""From prefixes to datasets: check all data first, have the indices in the cache, then Megatron's own builder."""

import copy
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.utils import Split

from meap_megatron.atomic import existing_parent
from meap_megatron.config import MaskConfig
from meap_megatron.datasets import index_folder
from meap_megatron.datasets.gpt import MEAPGPTDataset, MEAPGPTDatasetConfig, check_matches, prefixes_per_blend
from meap_megatron.datasets.mock import MockMEAPGPTDataset
from meap_megatron.datasets.pair import CleanMaskedPairs
from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.data import check_sft
from meap_megatron.datasets.sft.dataset import MEAPSFTDataset, MEAPSFTDatasetConfig, check_matches_sft
from meap_megatron.datasets.sft.packing import effective, packing_key
from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
from meap_megatron.errors import UserError
from meap_megatron.indexed.sidecar import check_prefix, read_sidecar

Config = MEAPGPTDatasetConfig | MEAPSFTDatasetConfig


def config_of_samples(
    prefix: str,
    *,
    seq_length: int,
    seed: int,
    split: str,
    cache: str,
    masking: MaskConfig | SFTConfig,
    mark_changes: bool = False,
) -> Config:
    """Return the configuration of a run on one dataset, as far as it decides the samples, for those who look at them.

    Args:
        prefix: the dataset.
        seq_length: positions of a sample.
        seed: of the order of the data.
        split: shares of train, valid and test.
        cache: folder of the sample index.
        masking: of text, or the rows of fine-tuning data.
        mark_changes: `loss_mask` says in bit 1 which inputs are changed.
    """
    shared: dict[str, Any] = {
        "random_seed": seed,
        "sequence_length": seq_length,
        "blend": ([prefix], None),
        "split": split,
        "path_to_cache": cache,
        "tokenizer": DatasetTokenizer(read_sidecar(prefix).tokenizer),
        "mark_changes": mark_changes,
    }
    if isinstance(masking, SFTConfig):
        return MEAPSFTDatasetConfig(**shared, sft=masking)
    return MEAPGPTDatasetConfig(**shared, meap=masking, create_attention_mask=False)


def build_datasets(
    config: Config,
    *,
    sizes: list[int | None],
    is_built_on_rank: Callable[[], bool] = lambda: True,
) -> list:
    """Return [train, valid, test], each a dataset, a blend, or None; must be called on all ranks.

    All prefixes are checked on every rank before the builder's first barrier, so that bad data ends every rank with
    the same message instead of leaving some of them waiting.

    Args:
        config: with a blend, or none for mock data.
        sizes: samples (with pairs: rows) of the three splits; None for one epoch.
        is_built_on_rank: whether this rank reads data, Megatron's own rule.

    Raises:
        UserError: data that is missing, changed, or not fit for this configuration.
    """
    check_data(config)

    def build(configuration: Config) -> list:
        builder = BlendedMegatronDatasetBuilder(
            dataset_class(config), in_samples(config, sizes), is_built_on_rank, configuration
        )
        return builder.build()

    built = build(config)
    if has_pairs(config):
        unmasked = copy.copy(config)
        unmasked.meap = None
        clean = build(unmasked)[0]  # on every rank: the builder has barriers
        if built[0] is not None:
            built[0] = CleanMaskedPairs(clean, built[0])
    return built


def has_pairs(config: Config) -> bool:
    """Tell whether each training sample is two rows."""
    return isinstance(config, MEAPGPTDatasetConfig) and config.pairs


def in_samples(config: Config, sizes: Sequence[int | None]) -> list[int | None]:
    """Return the sizes of the splits in samples, given in rows."""
    train = sizes[0]
    return [-(-train // 2) if has_pairs(config) and train is not None else train, *sizes[1:]]


def dataset_class(config: Config) -> type[MEAPGPTDataset] | type[MEAPSFTDataset]:
    """Return the class whose samples a configuration describes."""
    if isinstance(config, MEAPSFTDatasetConfig):
        return MEAPSFTDataset
    return MockMEAPGPTDataset if config.mock else MEAPGPTDataset


def prefixes(config: Config) -> list[str]:
    """Return every prefix of a configuration once, in order."""
    return list(dict.fromkeys(prefix for blend in prefixes_per_blend(config) for prefix in blend))


def check_data(config: Config) -> None:
    """Check every prefix: cheaply against its sidecar, and the sidecar against the configuration.

    Raises:
        UserError: naming the prefix.
    """
    for prefix in prefixes(config):
        if isinstance(config, MEAPSFTDatasetConfig):
            check_matches_sft(check_sft(prefix), prefix, config)
        else:
            check_matches(check_prefix(prefix), prefix, config)


def index_key(config: Config, *, sizes: Sequence[int | None]) -> str:
    """Return the name of the cache entry: a hash of all that decides the indices, the masks not among it.

    Args:
        config: with a blend.
        sizes: samples of the three splits.
    """
    cls = dataset_class(config)
    decisive = {
        "class": cls.__name__,
        # Not megatron.core.__version__, which holds the commit of the git repository that the process is started in.
        "megatron": importlib.metadata.version("megatron-core"),
        "sizes": in_samples(config, sizes),
        "blend": config.blend,
        "blend_per_split": config.blend_per_split,
        "content": {prefix: read_sidecar(prefix).content_hash for prefix in prefixes(config)},
        "surplus": config.mid_level_dataset_surplus,
        "multiple_validation_sets": config.multiple_validation_sets,
        "full_validation": config.full_validation,
        **{name: getattr(config, name) for name in cls._key_config_attributes()},
    }
    if isinstance(config, MEAPSFTDatasetConfig):
        decisive["packing"] = [packing_key(effective(config.sft, is_train=train)) for train in (True, False)]
    text = json.dumps(decisive, sort_keys=True, default=lambda value: value.unique_identifiers)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def obtain_indices(
    config: Config, *, sizes: list[int | None], folders: Sequence[Path], say: Callable[[str], None]
) -> index_folder.IndexEntry:
    """Return the cache entry with the indices of a run, built by this process alone if it is not there.

    Before a process group exists: Megatron's builder waits for other ranks if there is one.

    Args:
        config: with a blend.
        sizes: samples of the three splits.
        folders: caches to look in; what is missing is built in the first that can be written.

    Raises:
        UserError: data that is missing, changed or not fit; no folder can be written.
        RunError: the disk is full.
    """
    check_data(config)
    key = index_key(config, sizes=sizes)
    there = [folder for folder in folders if (folder / key).is_dir()]
    root = next(iter([*there, *filter(is_writable, folders)]), None)
    if root is None:
        raise UserError(
            f"the sample index can be kept in none of {', '.join(map(str, folders))}: no permission to write",
            fix="set data_cache_path to a folder that can be written and that all nodes see",
        )

    def build(folder: Path) -> dict[str, Any]:
        private = copy.copy(config)
        private.path_to_cache = str(folder)
        private.fast_cache_load = private.defer_npy_index_mmap = False  # they take the files for granted
        samples = in_samples(config, sizes)
        datasets = BlendedMegatronDatasetBuilder(dataset_class(config), samples, lambda: True, private).build()
        return {"sources": [row for i, dataset in enumerate(datasets) for row in sources(dataset, i, samples[i])]}

    return index_folder.obtain(root, key, build, say=say)


def is_writable(folder: Path) -> bool:
    """Tell whether a folder can be written, or made."""
    existing = existing_parent(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def sources(dataset: Any, split: int, size: int | None) -> Iterator[dict[str, Any]]:
    """Yield one row per source of a split: split, prefix, samples that are read of it, and how many epochs those are."""
    if dataset is None:
        return
    if isinstance(dataset, list):  # several validation sets
        for part in dataset:
            yield from sources(part, split, size)
        return
    if isinstance(dataset, BlendedDataset):
        parts = dataset.datasets
        drawn = np.bincount(dataset.dataset_index, minlength=len(parts)).tolist()
    else:
        parts, drawn = [dataset], [len(dataset) if size is None else min(size, len(dataset))]
    for part, samples in zip(parts, drawn, strict=True):
        epoch = samples_per_epoch(part)
        yield {
            "split": Split(split).name,
            "prefix": part.dataset_path,
            "samples": samples,
            "epochs": samples / epoch if epoch else 0.0,
        }


def samples_per_epoch(dataset: Any) -> float:
    """Return how many samples one pass over the documents of a split gives."""
    if isinstance(dataset, MEAPSFTDataset):
        return float(dataset.summary["rows_per_epoch"])
    num_tokens = int(dataset.dataset.sequence_lengths[dataset.indices].sum(dtype=np.int64))
    return num_tokens / dataset.config.sequence_length
