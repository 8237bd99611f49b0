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
from tests.corpus.conftest import no_fsync  # noqa: F401 (a fixture)

BOS, EOS = 1, 2


def info_of(mask_id: int) -> TokenizerInfo:
    """A tokenizer whose last id is [MASK]."""
    ids = {"vocab_size": mask_id + 1, "bos_id": BOS, "eos_id": EOS, "pad_id": None, "mask_id": mask_id}
    return TokenizerInfo(fingerprint="f" * 64, folder=None, mask_token="[MASK]", **ids)


def write_pairs(prefix: Path, documents: list[list[int]], roles: list[list[int]] | None = None, **fields) -> str:
    """Write documents, roles of their tokens if there are some, and a sidecar with these fields; return the prefix."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(fields.pop("dtype", np.uint16))
    paths = []
    for start, sequences, kind in ((f"{prefix}", documents, dtype.type), (f"{prefix}.roles", roles, np.uint8)):
        if sequences is not None:
            builder = IndexedDatasetBuilder(f"{start}.bin", dtype=kind)
            for sequence in sequences:
                builder.add_document(sequence, [len(sequence)])
            builder.finalize(f"{start}.idx")
            paths += [Path(f"{start}.bin"), Path(f"{start}.idx")]
    sizes = [path.stat().st_size for path in paths]
    if fields.get("sft") is not None:
        fields["sft"] |= {"roles_bytes": sizes[2], "roles_idx_bytes": sizes[3]}
    known = {
        "content_hash": hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest(),
        "num_documents": len(documents),
        "num_tokens": sum(map(len, documents)),
        "bin_bytes": sizes[0],
        "idx_bytes": sizes[1],
        "dtype": dtype.name,
        "add_bos": True,
        "add_eos": True,
        "libraries": {},
    }
    write_sidecar(prefix, Sidecar(**known | fields))
    return str(prefix)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the tests call; `folder` is the test's own."""

    folder: Path
    BOS, EOS, MASK, INFO = BOS, EOS, 100, info_of(100)

    def write(self, name: str = "data", *, seed: int = 0, num_documents: int = 60, **sidecar) -> str:
        """Write documents of 5 to 40 random ids (0 among them) and a sidecar; return the prefix."""
        rng = np.random.default_rng(seed)
        documents = []
        for _ in range(num_documents):
            text = rng.integers(3, 100, size=rng.integers(3, 39))
            text[0] = 0  # a real token may have the id that Megatron writes over padding
            documents.append([BOS, *text.tolist(), EOS])
        return write_pairs(self.folder / name, documents, **{"kind": "text", "tokenizer": self.INFO} | sidecar)

    def mask(self, **settings) -> MaskConfig:
        return MaskConfig(**{"mask_id": self.MASK, "ratio": 0.25} | settings)

    def settings(self, *prefixes: str, **changed) -> dict:
        """Return the arguments of Megatron's GPTDatasetConfig."""
        return {
            "random_seed": 7,
            "sequence_length": 32,
            "blend": (list(prefixes), [1.0] * len(prefixes) if len(prefixes) > 1 else None),
            "split": "80,20,0",
            "path_to_cache": str(self.folder / "cache"),
            "tokenizer": DatasetTokenizer(self.INFO),
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
        return torch.stack([dataset[i]["tokens"] == self.MASK for i in range(len(dataset))])


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(folder=tmp_path)
