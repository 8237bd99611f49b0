"""From prefixes to datasets: check all data first, then hand over to Megatron's own builder."""

from collections.abc import Callable

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder

from meap_megatron.corpus.sidecar import check_prefix
from meap_megatron.datasets.gpt import MEAPGPTDataset, MEAPGPTDatasetConfig, check_matches, prefixes_per_blend
from meap_megatron.datasets.mock import MockMEAPGPTDataset


def build_datasets(
    config: MEAPGPTDatasetConfig,
    *,
    sizes: list[int | None],
    is_built_on_rank: Callable[[], bool] = lambda: True,
) -> list:
    """Return [train, valid, test], each a dataset, a blend, or None; must be called on all ranks.

    All prefixes are checked on every rank before the builder's first barrier, so that bad data ends every rank with
    the same message instead of leaving some of them waiting.

    Args:
        config: with a blend, or none for mock data.
        sizes: samples of the three splits; None for one epoch.
        is_built_on_rank: whether this rank reads data, Megatron's own rule.

    Raises:
        UserError: data that is missing, changed, or not fit for this configuration.
    """
    for prefix in dict.fromkeys(prefix for prefixes in prefixes_per_blend(config) for prefix in prefixes):
        check_matches(check_prefix(prefix), prefix, config)
    cls = MockMEAPGPTDataset if config.mock else MEAPGPTDataset
    return BlendedMegatronDatasetBuilder(cls, sizes, is_built_on_rank, config).build()
