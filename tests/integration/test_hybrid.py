"""A hybrid model trains what a GPT trains, from its checkpoint and on every layout; gated delta nets train too."""

import json
import os
from pathlib import Path

import pytest

from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl
from tests.support.runs import RECIPES, TINY, losses, meap, run_warm, train

pytestmark = pytest.mark.slow
FIELDS = ("lm_loss", "masked_loss", "other_loss", "grad_norm")
EIGHT = (
    "nproc=8 tensor_model_parallel_size=2 sequence_parallel=true pipeline_model_parallel_size=2 "
    "num_virtual_stages_per_pipeline_rank=2 micro_batch_size=2"
).split()
"""Tensor, sequence, interleaved pipeline and data parallel at once."""
OTHERS = {
    "gated delta net": (
        "hybrid_layer_pattern=G-*-G-*- num_layers=null linear_key_head_dim=16 linear_value_head_dim=16 "
        "linear_num_key_heads=2 linear_num_value_heads=4 linear_conv_kernel_dim=4"
    ),
    "Mamba-2, packed": (
        "hybrid_layer_pattern=M-*-M-*- num_layers=null mamba_state_dim=16 mamba_head_dim=16 mamba_num_groups=2 "
        "dataloader_inter_document_masking=true micro_batch_size=1"
    ),
}
"""Layers in the place of attention."""


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


@pytest.fixture(scope="module")
def hybrid(folder: Path, gpt: Path) -> Path:
    """20 steps more of the same model as a hybrid, from that checkpoint."""
    return run(folder, "hybrid", *continued(gpt))


def continued(gpt: Path) -> list[str]:
    return ["model=hybrid", f"load={gpt}", "ckpt_step=2", "train_iters=22", "save_interval=20"]


def test_a_checkpoint_of_a_gpt_continues_as_a_hybrid_to_the_last_bit(gpt: Path, hybrid: Path) -> None:
    for field in FIELDS:
        got, wanted = losses(hybrid, field), losses(gpt, field)
        assert got == {step: wanted[step] for step in range(3, 23)}, field


def test_on_eight_processes_it_continues_with_the_same_losses(folder: Path, gpt: Path) -> None:
    eight = run(folder, "eight", *continued(gpt), *EIGHT)
    for field in FIELDS:
        got, wanted = losses(eight, field), losses(gpt, field)
        assert got == pytest.approx({step: wanted[step] for step in range(3, 23)}, rel=1e-5), field


@pytest.mark.parametrize("kind", OTHERS)
def test_masked_inputs_train_other_layers_alike_on_every_layout(folder: Path, kind: str) -> None:
    net = OTHERS[kind].split()
    one = run(folder, kind, *net, "train_iters=6", "save_interval=3")
    assert losses(one)[6] < losses(one)[1]
    layout = ["nproc=4", "tensor_model_parallel_size=2", "sequence_parallel=true", "pipeline_model_parallel_size=2"]
    cut = [word.replace("-*-", "-*-|", 1) for word in net]
    four = run(folder, f"{kind} 4", *cut, f"load={one}", "ckpt_step=3", "train_iters=6", *layout)
    for field in FIELDS:
        got, wanted = losses(four, field), losses(one, field)
        assert got == pytest.approx({step: wanted[step] for step in (4, 5, 6)}, rel=1e-5), field


def test_a_gpt_is_not_made_of_a_hybrid_and_says_how_to_go_on(folder: Path, hybrid: Path) -> None:
    words = [*TINY, f"data_path={folder / 'data'}", "split=80,20,0", f"load={hybrid}", f"save={folder / 'back'}"]
    done = train("tiny_cpu_meap.yaml", *words, "train_iters=24", "use_distributed_optimizer=true", check=False)
    assert (
        done.returncode == 2 and "is of a hybrid model, and this run is a GPT\n  fix: set model=hybrid" in done.stderr
    )


def test_a_hybrid_is_exported_like_its_gpt_and_its_import_trains_as_either(
    folder: Path, gpt: Path, hybrid: Path
) -> None:
    meap("convert", "export", hybrid, folder / "hf")  # compares the logits of both sides
    meap("convert", "export", gpt, folder / "hf_gpt", "--skip-verification")
    for name in ("model.safetensors", "config.json"):
        assert (folder / "hf" / name).read_bytes() == (folder / "hf_gpt" / name).read_bytes(), name
    meap("convert", "import", folder / "hf", folder / "imported", "--skip-verification")
    words = [f"pretrained_checkpoint={folder / 'imported'}", "train_iters=1", "eval_iters=0"]
    ends = [losses(run(folder, f"from_{model}", *words, f"model={model}")) for model in ("gpt", "hybrid")]
    assert ends[0] == ends[1] and ends[0][1] < losses(gpt)[1] - 0.2, "trained weights were loaded"


def test_a_rehearsal_compares_a_hybrid_with_the_checkpoint_of_a_gpt(folder: Path, gpt: Path) -> None:
    common = [*TINY, f"data_path={folder / 'data'}", "split=80,20,0", f"pretrained_checkpoint={gpt}", "device=cpu"]
    words = [
        str(RECIPES / "tiny_cpu_meap.yaml"),
        *common,
        "pipeline_model_parallel_size=2",
        "--world-size=2",
        "--json",
    ]
    done = run_warm(["rehearse", *words, "model=hybrid", "--ranks=1"], timeout=200, environ=dict(os.environ))
    assert done.returncode == 0, done.stderr
    rank = json.loads(done.stdout)["ranks"][0]
    assert rank["model"]["layers"] == [[4, 5, 6, 7]] and rank["begins_with"]["tensors_compared"] == 8
    done = run_warm(["rehearse", *words, "hybrid_layer_pattern=*-*-|*---"], timeout=200, environ=dict(os.environ))
    assert done.returncode == 2 and "is of a GPT, and this model cannot take it" in done.stderr
