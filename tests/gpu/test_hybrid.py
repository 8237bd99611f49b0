"""Hybrid models with Transformer Engine on a card: the losses of the GPT that they continue, and layers of other kinds."""

import importlib.util
from pathlib import Path

import pytest

from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl
from tests.support.runs import RECIPES, TINY, losses, meap

NET = (
    "linear_key_head_dim=64 linear_value_head_dim=64 linear_num_key_heads=2 linear_num_value_heads=4 "
    "linear_conv_kernel_dim=4"
).split()
MAMBA = "mamba_state_dim=64 mamba_head_dim=64 mamba_num_groups=2".split()
LAYERS = {"M": ("mamba_ssm", MAMBA), "G": ("fla", NET)}
"""Symbol -> the package that computes the layer, and its sizes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hybrid")
    write_jsonl(root / "corpus.jsonl", library_texts(600_000))
    write_byte_tokenizer(root / "tokenizer")
    meap("preprocess", "text", root / "corpus.jsonl", "--tokenizer", root / "tokenizer", "--output", root / "data")
    return root


def run(root: Path, name: str, *words: str) -> Path:
    common = [f"data_path={root / 'data'}", "split=80,20,0", f"save={root / name}", "use_distributed_optimizer=true"]
    widths = ["hidden_size=256", "num_attention_heads=4", "ffn_hidden_size=512", "precision=bf16", "device=cuda"]
    recipe = RECIPES / "tiny_cpu_meap.yaml"
    meap("train", recipe, *TINY, *widths, *common, *words, cold=True, timeout=300.0)
    return root / name


def test_a_checkpoint_of_a_gpt_continues_as_a_hybrid_with_the_same_losses(folder: Path) -> None:
    gpt = run(folder, "gpt", "train_iters=22", "save_interval=2")
    hybrid = run(folder, "hybrid", "model=hybrid", f"load={gpt}", "ckpt_step=2", "train_iters=22")
    wanted = losses(gpt)
    assert losses(hybrid) == pytest.approx({step: wanted[step] for step in range(3, 23)}, rel=1e-3)


@pytest.mark.parametrize("symbol", LAYERS)
def test_masked_inputs_train_other_layers(folder: Path, symbol: str) -> None:
    package, sizes = LAYERS[symbol]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, which computes these layers on a GPU")
    pattern = f"hybrid_layer_pattern={symbol}-*-{symbol}-*-"
    got = losses(run(folder, f"net_{symbol}", pattern, "num_layers=null", *sizes, "train_iters=30"))
    assert got[30] < got[1] - 0.3
