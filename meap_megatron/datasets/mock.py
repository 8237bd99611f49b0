"""Megatron's made-up GPT data (`--mock-data`) with masked inputs, for runs that measure speed and need no data."""

import hashlib

from megatron.core.datasets.gpt_dataset import MockGPTDataset

from meap_megatron.datasets.gpt import MEAPGPTDataset


class MockMEAPGPTDataset(MEAPGPTDataset, MockGPTDataset):
    """Samples of ascending ids, inputs masked as `config.meap` says."""

    numel_low_level_dataset = staticmethod(MockGPTDataset.numel_low_level_dataset)
    build_low_level_dataset = staticmethod(MockGPTDataset.build_low_level_dataset)

    @staticmethod
    def _content_hash(dataset_path: str | None) -> str:
        return hashlib.sha256(b"mock").hexdigest()
