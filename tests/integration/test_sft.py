"""Fine-tuning through the real trainer: packed rows equal their segments; no layout or batch shape changes the result."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from meap_megatron.launch.ranks import rank_environment
from meap_megatron.launch.runtime import free_port
from tests.support.conversations import docstring_rows, write_chat_dataset
from tests.support.runs import TINY, losses, records, train
from tests.support.runs import start as launch

pytestmark = pytest.mark.slow

MODEL = (
    "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --group-query-attention --num-query-groups 2 "
    "--ffn-hidden-size 176 --swiglu --disable-bias-linear --normalization RMSNorm --position-embedding-type rope "
    "--untie-embeddings-and-output-weights --seq-length 512 --max-position-embeddings 512 --micro-batch-size 1 "
    "--global-batch-size 8 --train-iters 1 --lr 1e-3 --hidden-dropout 0 --attention-dropout 0 --eval-iters 0 "
    "--make-vocab-size-divisible-by 8 --meap-mask-ratio 0.1 --meap-sft --split 98,2,0"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sft")
    write_chat_dataset(root, docstring_rows(1500), max_length=225)
    tune(root, "init", "train_iters=1", "eval_iters=0")
    return root


def tune(root: Path, name: str, *extra: str) -> Path:
    settings = [*TINY, "seq_length=224", "max_position_embeddings=224", "split=98,2,0", f"data_path={root / 'data'}"]
    train("tiny_cpu_sft_meap.yaml", *settings, f"save={root / name}", "train_iters=4", *extra)
    return root / name


@pytest.fixture(scope="module")
def one_by_one(folder: Path) -> Path:
    return tune(folder, "one", *start(folder), "micro_batch_size=1")


def start(root: Path) -> list[str]:
    return [f"pretrained_checkpoint={root / 'init'}"]


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [(1, []), (2, ["--tensor-model-parallel-size", "2"]), (2, ["--pipeline-model-parallel-size", "2"])],
    ids=["one process", "tp2", "pp2"],
)
def test_a_packed_row_equals_its_segments_one_by_one(
    folder: Path, tmp_path: Path, ranks: int, layout: list[str]
) -> None:
    out, port = tmp_path / "out.json", free_port()
    words = ["python", "-m", "tests.support.packed_rows", str(folder / "data"), str(out), *MODEL, *layout]
    processes = [launch(*words, **rank_environment(rank, world=ranks, port=port)) for rank in range(ranks)]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, said[-1][-3000:]
    results = json.loads(out.read_text())
    assert set(results) == {"separate", "concat", "ntp"}
    for name, result in results.items():
        assert result["segments"] >= 3
        assert (result["masked"] > 0) == (name != "ntp")
        assert result["loss_difference"] < 1e-5
        assert result["grad_difference"] < 1e-5
        assert result["microbatch_mean_difference"] < 1e-5
        # Every token of one segment was changed: no logit of another may move.
        assert result["leak"] == 0.0
        assert result["changed"] > 0.01


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("eight", ["micro_batch_size=8"]),
        ("dp2", ["nproc=2", "micro_batch_size=2"]),
        ("pp4", ["nproc=4", "pipeline_model_parallel_size=4", "micro_batch_size=1"]),
        ("tp2", ["nproc=2", "tensor_model_parallel_size=2", "sequence_parallel=true", "micro_batch_size=4"]),
    ],
)
def test_the_shape_of_the_batch_and_the_layout_change_nothing(
    folder: Path, one_by_one: Path, name: str, settings: list[str]
) -> None:
    # Rows hold unequal numbers of trained tokens, so a mean of means would differ; with four stages, the middle ones
    # have to receive the segment bounds.
    run = tune(folder, name, *start(folder), *settings)
    for field in ("lm_loss", "masked_loss", "other_loss", "trained_fraction", "grad_norm"):
        expected = losses(one_by_one, field)
        assert len(expected) == 4
        assert losses(run, field) == pytest.approx(expected, rel=1e-5), field
    # Attention inside segments, without padding: equal on every layout, and less than Megatron's formula for whole rows.
    assert list(operations(run)) == pytest.approx(list(operations(one_by_one)), rel=1e-9)
    assert len(set(operations(run))) > 1
    validations = [[r["lm_loss"] for r in records(x / "metrics.jsonl", "validation")] for x in (run, one_by_one)]
    assert validations[0] and validations[0] == pytest.approx(validations[1], rel=1e-5)


def operations(run: Path) -> list[float]:
    """Return the floating-point operations of each step, from its MFU."""
    (settings,) = (record["run"] for record in records(run / "metrics.jsonl", "start"))
    peak = settings["peak_tflops_per_device"] * 1e12 * settings["world_size"]
    return [record["mfu"] * record["seconds"] * peak for record in records(run / "metrics.jsonl", "step")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the model's tensors from a run's checkpoint of step 1."""
    reader = dcp.FileSystemReader(run / "iter_0000001")
    entries = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if hasattr(entry, "size") and entry.properties.dtype.is_floating_point and not name.startswith("optimizer")
    }
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return {name: tensor.double() for name, tensor in tensors.items()}


def test_every_gradient_is_the_same_for_every_shape_of_the_batch(folder: Path) -> None:
    # One step of plain gradient descent at rate 1, nothing clipped: the weights move by the gradient itself.
    descent = (
        "optimizer=sgd sgd_momentum=0.0 lr=1.0 min_lr=1.0 lr_decay_style=constant lr_warmup_fraction=null clip_grad=0.0 "
        "weight_decay=0.0 train_iters=1 eval_iters=0"
    ).split()
    shapes = {"g1": ["micro_batch_size=1"], "g8": ["micro_batch_size=8"], "gd": ["nproc=2", "micro_batch_size=2"]}
    before = weights(folder / "init")
    moved = {
        name: {
            key: before[key] - value
            for key, value in weights(tune(folder, name, *start(folder), *descent, *shape)).items()
        }
        for name, shape in shapes.items()
    }
    largest = max(float(gradient.abs().max()) for gradient in moved["g1"].values())
    assert largest > 1e-3
    for name in ("g8", "gd"):
        for key, gradient in moved["g1"].items():
            assert float((gradient - moved[name][key]).abs().max()) < 1e-5 * largest, (name, key)


def test_the_published_mean_of_micro_batches_is_another_gradient(folder: Path, one_by_one: Path) -> None:
    run = tune(folder, "mean", *start(folder), "micro_batch_size=1", "meap_sft_loss=microbatch_mean", "train_iters=1")
    assert losses(run)[1] == pytest.approx(losses(one_by_one)[1], rel=1e-6)  # reported over tokens either way
    assert losses(run, "grad_norm")[1] != pytest.approx(losses(one_by_one, "grad_norm")[1], rel=1e-3)


def test_pipeline_stages_refuse_more_than_one_packed_row_at_a_time(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="set micro_batch_size=1"):
        tune(folder, "refused", "nproc=2", "pipeline_model_parallel_size=2")
