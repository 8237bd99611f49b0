"""Tiny conversations on disk, written by Megatron's own IndexedDatasetBuilder, and built by its own dataset builder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder

from meap_megatron.datasets.sft.config import SFTConfig
from meap_megatron.datasets.sft.dataset import MEAPSFTDataset, MEAPSFTDatasetConfig
from meap_megatron.datasets.sidecar_tokenizer import DatasetTokenizer
from tests.datasets.conftest import EOS, info_of, write_pairs

MASK = 200
INFO = info_of(MASK)
SFT = {
    "template": "llama3",
    "template_fingerprint": "0" * 64,
    "multi_turn": "history",
    "max_length": None,
    "over_long": "truncate",
    "min_answer_words": None,
    "counts": {},
    "num_trained_tokens": 0,
    "trained_share": 0.0,
    "answer_length_histogram": [],
}

Conversation = tuple[list[int], list[int]]
"""Ids and roles."""


def talk(*parts: tuple[int, int], first: int = 10) -> Conversation:
    """Return a conversation of runs of (role, number of tokens), with ids that count up; role 2 has the EOS id."""
    ids: list[int] = []
    roles: list[int] = []
    for role, length in parts:
        ids += [EOS] * length if role == 2 else [10 + (first + len(ids) + i) % 180 for i in range(length)]
        roles += [role] * length
    return ids, roles


def alpaca_like(
    num_conversations: int, *, seed: int = 0, longest: int = 127, mean: float = 30.0
) -> list[Conversation]:
    """Return single-turn conversations with log-normal lengths, one answer each, at most `longest` tokens long."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(mean) - 0.32, 0.8, size=(num_conversations, 2)))
    found = []
    for number, (prompt, answer) in enumerate(np.maximum(1, lengths / [2, 1]).astype(int).tolist()):
        prompt = min(prompt, longest // 2)
        answer = min(answer, longest - 2 - prompt)
        found.append(talk((0, 1 + prompt), (1, answer), (2, 1), first=7 * number))
    return found


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What the tests call; `folder` is the test's own."""

    folder: Path
    EOS, MASK, INFO = EOS, MASK, INFO

    def write(self, conversations: list[Conversation], name: str = "data", **sidecar) -> str:
        """Write conversations, their roles and a sidecar; return the prefix."""
        ids, roles = [ids for ids, _ in conversations], [roles for _, roles in conversations]
        fields = {"kind": "sft", "tokenizer": INFO, "sft": dict(SFT)} | sidecar
        return write_pairs(self.folder / name, ids, roles, **fields)

    def sft(self, **settings) -> SFTConfig:
        """Return a configuration that masks a quarter of each answer of more than 10 tokens."""
        return SFTConfig(**{"mask_id": MASK, "min_answer_tokens": 10, "ratio": 0.25} | settings)

    def config(self, *prefixes: str, sft: SFTConfig | None = None, **changed) -> MEAPSFTDatasetConfig:
        settings = {
            "random_seed": 7,
            "sequence_length": 128,
            "blend": (list(prefixes), [1.0] * len(prefixes) if len(prefixes) > 1 else None),
            "split": "100,0,0",
            "path_to_cache": str(self.folder / "cache"),
            "tokenizer": DatasetTokenizer(INFO),
        }
        return MEAPSFTDatasetConfig(**settings | changed, sft=sft or self.sft())

    def build(self, *prefixes: str, sft: SFTConfig | None = None, sizes=(None, None, None), **changed) -> list:
        """Return [train, valid, test] from the real builder."""
        config = self.config(*prefixes, sft=sft, **changed)
        return BlendedMegatronDatasetBuilder(MEAPSFTDataset, list(sizes), lambda: True, config).build()

    def train(self, *prefixes: str, sft: SFTConfig | None = None, num_rows: int | None = None, **changed):
        """Return the train split."""
        return self.build(*prefixes, sft=sft, sizes=(num_rows, None, None), **changed)[0]


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(folder=tmp_path)
