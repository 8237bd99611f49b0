"""The provider for Megatron-Bridge gives the samples of our own; Bridge itself needs Transformer Engine to be imported.

Without Bridge, its contract (`megatron.bridge.data.base` of 0.6.2: a dataclass to derive from, and what `build_datasets` is
given) is stood in for by a module of the same names.
"""

import dataclasses
import importlib
import importlib.util
import sys
import types
from types import SimpleNamespace

import pytest
import torch

from meap_megatron.errors import UserError
from tests.support.runs import ROOT


def contract() -> types.ModuleType:
    @dataclasses.dataclass(kw_only=True)
    class DataloaderConfig:
        num_workers: int = 2

    @dataclasses.dataclass
    class DatasetProvider(DataloaderConfig):
        pass

    module = types.ModuleType("megatron.bridge.data.base")
    module.DatasetProvider, module.DatasetBuildContext = DatasetProvider, object
    return module


@pytest.fixture
def bridge(monkeypatch):
    try:
        importlib.import_module("megatron.bridge.data.base")
    except Exception:  # not installed, or without Transformer Engine
        for name in ("megatron.bridge", "megatron.bridge.data"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setitem(sys.modules, "megatron.bridge.data.base", contract())
    monkeypatch.delitem(sys.modules, "meap_megatron.bridge", raising=False)
    yield importlib.import_module("meap_megatron.bridge")
    sys.modules.pop("meap_megatron.bridge", None)


def test_the_provider_builds_the_samples_of_our_own_trainer(tools, bridge):
    prefix = tools.write()
    provider = bridge.MEAPDataset(
        prefixes=[prefix],
        seq_length=32,
        split="80,20,0",
        random_seed=7,
        mask_ratio=0.25,
        settings={"seed": 1234},
        path_to_cache=str(tools.folder / "bridge"),
    )
    train, valid, test = provider.build_datasets(SimpleNamespace(train_samples=40, valid_samples=20, test_samples=0))
    own_train, own_valid, _ = tools.build(prefix, meap=tools.mask(), create_attention_mask=False)
    assert test is None
    for mine, own in ((train, own_train), (valid, own_valid)):
        assert len(mine) == len(own)
        for i in range(0, len(own), 7):
            for name, field in own[i].items():
                assert torch.equal(mine[i][name], field), name
    assert set(train[0]["loss_mask"].tolist()) == {1.0}, "Bridge takes the loss mask as weights: no marks in it"
    with pytest.raises(UserError, match="the tokenizer of .* is not beside it"):
        bridge.MEAPDataset(prefixes=[prefix], corruption="random").build_datasets(SimpleNamespace())


def test_the_recipe_is_that_of_bridge_with_our_data_and_a_row_for_mask(tools, bridge, monkeypatch):
    theirs = SimpleNamespace(
        dataset=None, model=SimpleNamespace(seq_length=32, vocab_size=7), tokenizer=SimpleNamespace(vocab_size=7)
    )
    module = types.ModuleType("megatron.bridge.recipes.llama.h100.llama3")
    module.llama32_1b_pretrain_1gpu_h100_bf16_config = lambda: theirs
    for name in ("megatron.bridge.recipes", "megatron.bridge.recipes.llama", "megatron.bridge.recipes.llama.h100"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "examples/bridge/llama32_1b_meap.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    config = example.recipe([tools.write()], mask_ratio="0:0.5")
    assert isinstance(config.dataset, bridge.MEAPDataset)
    assert (config.dataset.seq_length, config.dataset.mask_ratio) == (32, "0:0.5")
    assert config.model.vocab_size == config.tokenizer.vocab_size == 101
