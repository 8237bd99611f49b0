"""Tiny datasets on disk, written by Megatron's own IndexedDatasetBuilder, and built by its own dataset builder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from meap_megatron.config import MaskConfig
from meap_megatron.datasets.gpt import MEAPGPTDataset, MEAPGPTDatasetConfig
from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
from meap_megatron.indexed.sidecar import Sidecar, TokenizerInfo, write_sidecar

BOS, EOS, MASK = 1, 2, 100
INFO = TokenizerInfo(
    fingerprint="f" * 64,
    folder=None,
    vocab_size=101,
    bos_id=BOS,
    eos_id=EOS,
    pad_id=None,
    mask_id=MASK,
    mask_token="[MASK]",
)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the tests call; `folder` is the test's own."""

    folder: Path
    BOS = BOS
    EOS = EOS
    MASK = MASK
    INFO = INFO

    def write(self, name: str = "data", *, seed: int = 0, num_documents: int = 60, **sidecar) -> str:
        """Write documents of 5 to 40 random ids (0 among them) and a sidecar; return the prefix."""
        prefix = self.folder / name
        prefix.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
        num_tokens = 0
        for _ in range(num_documents):
            text = rng.integers(3, 100, size=rng.integers(3, 39))
            text[0] = 0  # a real token may have the id that Megatron writes over padding
            document = [BOS, *text.tolist(), EOS]
            builder.add_document(document, [len(document)])
            num_tokens += len(document)
        builder.finalize(f"{prefix}.idx")
        data = [Path(f"{prefix}{suffix}").read_bytes() for suffix in (".bin", ".idx")]
        fields = {
            "kind": "text",
            "content_hash": hashlib.sha256(b"".join(data)).hexdigest(),
            "num_documents": num_documents,
            "num_tokens": num_tokens,
            "bin_bytes": len(data[0]),
            "idx_bytes": len(data[1]),
            "dtype": "uint16",
            "add_bos": True,
            "add_eos": True,
            "tokenizer": INFO,
            "libraries": {},
        }
        write_sidecar(prefix, Sidecar(**fields | sidecar))
        return str(prefix)

    def mask(self, **settings) -> MaskConfig:
        return MaskConfig(**{"mask_id": MASK, "ratio": 0.25} | settings)

    def settings(self, *prefixes: str, **changed) -> dict:
        """Return the arguments of Megatron's GPTDatasetConfig."""
        return {
            "random_seed": 7,
            "sequence_length": 32,
            "blend": (list(prefixes), [1.0] * len(prefixes) if len(prefixes) > 1 else None),
            "split": "80,20,0",
            "path_to_cache": str(self.folder / "cache"),
            "tokenizer": DatasetTokenizer(INFO),
            "reset_position_ids": False,
            "reset_attention_mask": False,
            "eod_mask_loss": False,
        } | changed

    def config(self, *prefixes: str, meap: MaskConfig | None = None, **changed) -> MEAPGPTDatasetConfig:
        return MEAPGPTDatasetConfig(**self.settings(*prefixes, **changed), meap=meap)

    def build(self, *prefixes: str, plain: bool = False, sizes=(40, 20, None), meap=None, **changed) -> list:
        """Return [train, valid, test] from the real builder; `plain` builds Megatron's own GPTDataset."""
        if plain:
            config, cls = GPTDatasetConfig(**self.settings(*prefixes, **changed)), GPTDataset
        else:
            config, cls = self.config(*prefixes, meap=meap, **changed), MEAPGPTDataset
        return BlendedMegatronDatasetBuilder(cls, list(sizes), lambda: True, config).build()

    def masks(self, dataset) -> torch.Tensor:
        """Return bool[num_samples, 32]: where the inputs are masked."""
        return torch.stack([dataset[i]["tokens"] == MASK for i in range(len(dataset))])


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(folder=tmp_path)
