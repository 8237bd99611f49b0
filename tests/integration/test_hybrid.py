"""A hybrid model trains what a GPT trains, from its checkpoint and on every layout; gated delta nets train too."""

from pathlib import Path

import pytest

from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl
from tests.support.runs import TINY, losses, meap, train

pytestmark = pytest.mark.slow
FIELDS = ("lm_loss", "masked_loss", "other_loss", "grad_norm")
EIGHT = (
    "nproc=8 tensor_model_parallel_size=2 sequence_parallel=true pipeline_model_parallel_size=2 "
    "num_virtual_stages_per_pipeline_rank=2 micro_batch_size=2"
).split()
"""Tensor, sequence, interleaved pipeline and data parallel at once."""
NET = (
    "hybrid_layer_pattern=G-*-G-*- num_layers=null linear_key_head_dim=16 linear_value_head_dim=16 "
    "linear_num_key_heads=2 linear_num_value_heads=4 linear_conv_kernel_dim=4"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hybrid")
    write_jsonl(root / "corpus.jsonl", library_texts(600_000))
    write_byte_tokenizer(root / "tokenizer")
    meap("preprocess", "text", root / "corpus.jsonl", "--tokenizer", root / "tokenizer", "--output", root / "data")
    return root


def run(root: Path, name: str, *words: str) -> Path:
    common = [f"data_path={root / 'data'}", "split=80,20,0", f"save={root / name}", "use_distributed_optimizer=true"]
    train("tiny_cpu_meap.yaml", *TINY, *common, *words)
    return root / name


@pytest.fixture(scope="module")
def gpt(folder: Path) -> Path:
    """22 steps of a GPT, with a checkpoint after 2."""
    return run(folder, "gpt", "train_iters=22", "save_interval=2")


@pytest.mark.parametrize("layout", [[], EIGHT], ids=["one process", "eight processes"])
def test_a_checkpoint_of_a_gpt_continues_as_a_hybrid_with_the_same_losses(
    folder: Path, gpt: Path, layout: list[str]
) -> None:
    words = ["model=hybrid", f"load={gpt}", "ckpt_step=2", "train_iters=22", "save_interval=20"]
    hybrid = run(folder, f"hybrid_{len(layout)}", *words, *layout)
    for field in FIELDS:
        got, wanted = losses(hybrid, field), losses(gpt, field)
        assert sorted(got) == list(range(3, 23)), "the optimizer's state and the step came with the weights"
        expected = {step: wanted[step] for step in got}
        # One process does the same operations in the same order.
        assert got == (pytest.approx(expected, rel=1e-5) if layout else expected), field


def test_masked_inputs_train_gated_delta_nets_alike_on_every_layout(folder: Path) -> None:
    one = run(folder, "net", *NET, "train_iters=6", "save_interval=3")
    assert losses(one)[6] < losses(one)[1]
    layout = ["nproc=4", "tensor_model_parallel_size=2", "sequence_parallel=true", "pipeline_model_parallel_size=2"]
    net = [word.replace("G-*-G-*-", "G-*-|G-*-") for word in NET]
    four = run(folder, "net_4", *net, f"load={one}", "ckpt_step=3", "train_iters=6", *layout)
    for field in FIELDS:
        got, wanted = losses(four, field), losses(one, field)
        assert got == pytest.approx({step: wanted[step] for step in (4, 5, 6)}, rel=1e-5), field
