"""A run continues with the other Adam: begun on a CPU with torch's, continued with Transformer Engine's, and back."""

import json
from pathlib import Path

import pytest

from tests.support.runs import python

pytestmark = pytest.mark.slow

FLAGS = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 4 --ffn-hidden-size 64 --swiglu --disable-bias-linear "
    "--normalization RMSNorm --position-embedding-type rope --untie-embeddings-and-output-weights --seq-length 32 "
    "--max-position-embeddings 32 --micro-batch-size 2 --global-batch-size 4 --lr 1e-2 --weight-decay 0.1 --adam-beta2 0.95 "
    "--eval-iters 0 --eval-interval 9 --tokenizer-type NullTokenizer --vocab-size 128 --mock-data --num-workers 0 "
    "--hidden-dropout 0 --attention-dropout 0 --meap-device cpu --lr-decay-style constant"
).split()


KINDS = {
    "float32": [],
    "bfloat16": ["--bf16"],
    "distributed": ["--use-distributed-optimizer"],
    "distributed, fully reshardable": ["--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adam")
    lists = [word for flags in KINDS.values() for word in ("--", *FLAGS, *flags)][1:]
    python("-m", "tests.support.fused_adam", root, *lists, timeout=600)
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_continues_with_the_other_adam_and_comes_back(folder: Path, kind: str) -> None:
    number = list(KINDS).index(kind)
    whole, moved = (steps(folder / f"{run}-{number}" / "metrics.jsonl") for run in ("whole", "moved"))
    assert list(moved) == [1, 2, 3, 4, 5, 6]
    for step, expected in whole.items():
        assert moved[step] == pytest.approx(expected, rel=5e-3 if kind == "bfloat16" else 1e-5)


def steps(metrics: Path) -> dict[int, tuple[float, float]]:
    lines = map(json.loads, metrics.read_text().splitlines())
    return {line["step"]: (line["lm_loss"], line["grad_norm"]) for line in lines if line["event"] == "step"}
