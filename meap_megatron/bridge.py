"""MEAP in Megatron-Bridge: a dataset provider for its recipes.

    config = llama32_1b_pretrain_config()
    config.dataset = MEAPDataset(prefixes=["data/c4"], seq_length=4096, mask_ratio=0.15)

Written against Bridge 0.6.2 (`megatron.bridge.data.base`). Importing this module imports Bridge, which needs Transformer
Engine; a training run of Bridge with it has not been seen.
"""

from dataclasses import dataclass, field
from typing import Any

from megatron.bridge.data.base import DatasetBuildContext, DatasetProvider

from meap_megatron.config import MaskConfig
from meap_megatron.datasets.gpt import MEAPGPTDatasetConfig
from meap_megatron.datasets.mask_stage import config_of_data
from meap_megatron.datasets.provider import build_datasets
from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
from meap_megatron.indexed.sidecar import check_prefix


@dataclass(kw_only=True)
class MEAPDataset(DatasetProvider):
    """Data of `meap preprocess text` with masked inputs.

    Raises:
        UserError: (when the datasets are built) data that is missing or changed, or a setting that breaks its rule.
    """

    prefixes: list[str]
    """Datasets without .bin or .idx."""
    weights: list[float] | None = None
    """Of the prefixes in a blend; None for the sizes of the datasets."""
    seq_length: int = 4096
    split: str = "969,30,1"
    """Shares of train, validation and test."""
    random_seed: int = 1234
    """Of the order of the data."""
    mask_ratio: float | str = MaskConfig.ratio
    """As `meap_mask_ratio`: docs/masked_inputs.md."""
    corruption: str = MaskConfig.corruption
    settings: dict[str, Any] = field(default_factory=dict)
    """Other fields of `MaskConfig`, such as strategy or skip_first."""
    path_to_cache: str | None = None

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any | None, Any | None, Any | None]:
        """Return the train, validation and test datasets, for the sample counts that Bridge asks for."""
        sidecar = check_prefix(self.prefixes[0])
        config = MEAPGPTDatasetConfig(
            random_seed=self.random_seed,
            sequence_length=self.seq_length,
            blend=(self.prefixes, self.weights),
            split=self.split,
            path_to_cache=self.path_to_cache,
            tokenizer=DatasetTokenizer(sidecar.tokenizer),
            create_attention_mask=False,
            meap=config_of_data(
                self.prefixes[0],
                sidecar,
                ratio=self.mask_ratio,
                corruption=self.corruption,
                **{"seed": self.random_seed} | self.settings,
            ),
        )
        sizes = [context.train_samples, context.valid_samples, context.test_samples]
        train, valid, test = build_datasets(config, sizes=[size or None for size in sizes])
        return train, valid, test
