"""Ranks of large jobs, rehearsed by the command that a user types."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.planning.job import read
from meap_megatron.planning.layout import PlannedLayout
from meap_megatron.planning.memory import stage_parameters
from tests.support.runs import RECIPES, TINY, run_warm, train

SMALL = (
    "num_layers=8 hidden_size=64 ffn_hidden_size=176 num_attention_heads=4 group_query_attention=true num_query_groups=2 "
    "kv_channels=16 seq_length=64 max_position_embeddings=64 train_iters=2 save_interval=2 eval_iters=1 split=50,50,0"
).split()
LARGE_JOB = (
    "tensor_model_parallel_size=2 pipeline_model_parallel_size=4 num_layers_per_virtual_pipeline_stage=1 "
    "sequence_parallel=true micro_batch_size=2 global_batch_size=1024"
).split()
"""On 1,024 processes: 128 data-parallel ranks, 4 micro-batches."""


def rehearse(recipe: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    arguments = ["rehearse", str(RECIPES / recipe), *map(str, words)]
    return run_warm(arguments, timeout=200, environ=os.environ | {"MEAP_THREADS": "1"})


def found(recipe: str, *words: str | Path) -> Any:
    done = rehearse(recipe, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def job(corpora: Path, tmp_path: Path) -> list[str]:
    return [*SMALL, *LARGE_JOB, f"data_path={corpora / 'data'}", f"save={tmp_path / 'run'}", "--world-size=1024"]


@pytest.fixture(scope="module")
def large(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ranks of the first, the middle and the last stage, at their true sizes and through one iteration."""
    words = job(corpora, tmp_path_factory.mktemp("large"))
    return found("pretrain/llama_1.1b_meap.yaml", *words, "--ranks=0,517,1023", "--shapes", "--steps=1")


def test_each_rank_has_its_place_its_layers_and_its_share_of_the_parameters(large: Any) -> None:
    first, middle, last = large["ranks"]
    # Tensor 2, data 128, pipeline 4, counted from the inside out: 517 = 1 + 2 * 2 + 256 * 2.
    assert [middle["place"][name]["rank"] for name in ("tensor", "data", "pipeline")] == [1, 2, 2]
    assert middle["place"]["tensor"]["ranks"] == [516, 517]
    assert middle["place"]["pipeline"]["ranks"] == [5, 261, 517, 773]
    assert [rank["model"]["layers"] for rank in large["ranks"]] == [[[0], [4]], [[2], [6]], [[3], [7]]]
    # Half of a layer: query, key, value 64 x 64, projection 64 x 32, gate and up 176 x 64, down 64 x 88; and its two norms.
    layer = 64 * 64 + 64 * 32 + 176 * 64 + 64 * 88 + 2 * 64
    table = 64 * 320 // 2  # 301 ids and [MASK], in multiples of 64
    parameters = [rank["model"]["parameters"] for rank in (first, middle, last)]
    assert parameters == [2 * layer + table, 2 * layer, 2 * layer + table + 64]
    assert {rank["parameters_of_model"] for rank in large["ranks"]} == {16 * layer - 8 * 2 * 64 + 4 * table + 64}


def test_memory_is_what_megatrons_buffers_and_shards_hold(large: Any) -> None:
    middle = large["ranks"][1]
    count = middle["model"]["parameters"]
    assert middle["memory"]["weights"] == 2 * count  # bfloat16
    assert middle["memory"]["gradients"] >= 4 * count  # float32, padded so that 128 ranks have equal shares
    # The main parameters and both moments of a share, which is padded too.
    assert 0 < middle["memory"]["optimizer"] <= 12 * (count // 128 + 256)


def test_each_rank_reads_or_gets_the_samples_of_its_data_parallel_rank(large: Any) -> None:
    first, middle, last = (rank["data"] for rank in large["ranks"])
    assert first["first_step"] == [[0, 1], [256, 257], [512, 513], [768, 769]]
    assert middle["first_step"] == [[4, 5], [260, 261], [516, 517], [772, 773]]
    assert last["first_step"] == [[254, 255], [510, 511], [766, 767], [1022, 1023]]
    assert (first["reads"], first["shape"], first["masked"]) == (True, [2, 64], 2 * 9)  # floor(64 * 0.15)
    assert (middle["reads"], middle["needs"]) == (False, False)
    assert (last["reads"], last["needs"], last["reader"]) == (False, True, 1022)


def test_what_would_be_written_is_said_and_nothing_is_written(large: Any) -> None:
    saves = large["ranks"][0]["saves"]
    assert saves["first"].endswith("run/iter_0000002") and saves["files_of_rank"] == "__0_*.distcp"
    assert saves["bytes"] == large["ranks"][0]["parameters_of_model"] * (2 + 4 + 4 + 4)
    assert not Path(saves["folder"]).exists()


def test_every_stage_runs_real_iterations_of_the_trainer(large: Any) -> None:
    # 4 micro-batches through 2 interleaved parts.
    assert [(rank["rank"], rank["steps"], rank["micro_batches"]) for rank in large["steps"]] == [
        (0, 1, 8),
        (517, 1, 8),
        (1023, 1, 8),
    ]
    assert "the other ranks" in large["replaced"][0] and "Transformer Engine" in large["replaced"][1]


def test_a_hybrid_model_holds_on_each_rank_what_the_gpt_holds(large: Any, corpora: Path, tmp_path: Path) -> None:
    words = job(corpora, tmp_path)
    hybrid = found("pretrain/llama_1.1b_meap.yaml", *words, "model=hybrid", "--ranks=0,517,1023", "--shapes")
    for rank, gpt in zip(hybrid["ranks"], large["ranks"], strict=True):
        assert rank["model"]["parameters"] == gpt["model"]["parameters"]
        assert rank["model"]["layers"] == [[2 * layer, 2 * layer + 1] for (layer,) in gpt["model"]["layers"]]
        assert (rank["memory"], rank["parameters_of_model"]) == (gpt["memory"], gpt["parameters_of_model"])


def test_recurrent_layers_are_rehearsed_and_hold_the_parameters_that_the_plan_counts(
    corpora: Path, tmp_path: Path
) -> None:
    layers = (
        "num_layers=null num_layers_per_virtual_pipeline_stage=null hybrid_layer_pattern=MG*-|MG*- "
        "pipeline_model_parallel_size=2 mamba_state_dim=24 mamba_head_dim=32 mamba_num_groups=2 linear_key_head_dim=8 "
        "linear_value_head_dim=16 linear_num_key_heads=4 linear_num_value_heads=8 linear_conv_kernel_dim=3"
    )
    words = [*job(corpora, tmp_path), *layers.split()]
    report = found("pretrain/llama_1.1b_meap.yaml", *words, "--ranks=0,1023", "--shapes", "--steps=1")
    settings = [word for word in words if not word.startswith("--")]
    model = read(RECIPES / "pretrain/llama_1.1b_meap.yaml", settings, vocabulary=302).model(2)
    layout = PlannedLayout(tensor=2, pipeline=2, data=256, micro_batch=2, num_micro_batches=2)
    for stage, rank in enumerate(report["ranks"]):
        assert rank["parameters_of_model"] == model.parameters
        assert rank["model"]["parameters"] == stage_parameters(model, layout, stage)[0]
    assert [rank["steps"] for rank in report["steps"]] == [1, 1]


def test_1024_data_parallel_ranks_read_each_sample_once_and_with_the_masks_of_one_process(
    corpora: Path, tmp_path: Path
) -> None:
    words = [
        *SMALL,
        f"data_path={corpora / 'data'}",
        f"save={tmp_path}",
        "global_batch_size=2048",
        "micro_batch_size=1",
    ]
    data = found("pretrain/llama_1.1b_meap.yaml", *words, "train_iters=3", "--world-size=1024", "--data-only")["data"]
    assert (data["data_parallel"], data["samples"], data["steps"], data["steps_of_run"]) == (1024, 6144, 3, 3)
    assert data["equal_to_one_process"] == 6144
    assert data["masked"] == 9 / 64
    assert data["epochs_checked"] > 1


def test_fp8_context_parallel_and_transformer_engine_are_rehearsed_as_far_as_a_cpu_goes(
    corpora: Path, tmp_path: Path
) -> None:
    words = [f"data_path={corpora / 'data'}", f"save={tmp_path}", "pretrained_checkpoint=null", "split=50,50,0"]
    settings = [
        "precision=fp8-tensorwise",
        "seq_length=1024",
        "train_iters=2",
        "layout=256",
        "tp_comm_overlap=true",
    ]
    report = found("extend/llama_1.1b_64k_meap.yaml", *words, *settings, "--ranks=255", "--shapes", "--steps=1")
    (rank,) = report["ranks"]
    assert rank["place"]["context"]["rank"] == 7 and rank["parameters_of_model"] == 1_175_816_192 - 2 * 2048 * (
        32064 - 320
    )
    assert report["steps"][0]["steps"] == 1
    said = "\n".join(report["replaced"])
    assert "FP8 (hybrid, tensorwise): bfloat16" in said and "attention under context parallel" in said
    assert "left out, because they need Transformer Engine: tp_comm_overlap" in said
    assert "CUDA kernels and whether they take these shapes" in report["not_checked"]


def test_a_checkpoint_is_compared_with_the_model_that_would_load_it(corpora: Path, tmp_path: Path) -> None:
    settings = [
        *TINY,
        f"data_path={corpora / 'data'}",
        "split=50,50,0",
        "train_iters=1",
        "save_interval=1",
        "micro_batch_size=1",
        "device=cpu",
    ]
    saved = tmp_path / "saved"
    train("tiny_cpu_meap.yaml", *settings, f"save={saved}")
    begins = [*settings, f"save={tmp_path / 'new'}", f"pretrained_checkpoint={saved}", "--world-size=8"]
    layout = ["tensor_model_parallel_size=2", "pipeline_model_parallel_size=2"]
    report = found("tiny_cpu_meap.yaml", *begins, *layout, "--ranks=0")["ranks"][0]
    assert report["begins_with"] == {"step": 0, "checkpoint": f"{saved}/iter_0000001", "tensors_compared": 7}
    size = sum(path.stat().st_size for path in (saved / "iter_0000001").glob("*.distcp"))
    assert 0.7 * size < report["saves"]["bytes"] < size  # the rest is what every tensor's own file header takes
    quiet = rehearse("tiny_cpu_meap.yaml", *begins, "--ranks=0", "-q")
    assert quiet.stdout.startswith("nothing found that would stop this job (1 of 8 ranks, "), quiet.stderr
    assert (quiet.returncode, quiet.stderr) == (0, "")
    wider = rehearse("tiny_cpu_meap.yaml", *begins, "hidden_size=128")
    assert wider.returncode == 2 and wider.stderr.count("meap: error: ") == 1 and "Traceback" not in wider.stderr
    assert "is not of this model: embedding.word_embeddings.weight is [" in wider.stderr
    done = rehearse("tiny_cpu_meap.yaml", *settings, f"save={saved}", "--world-size=8")
    assert done.returncode == 2 and "holds step 1 and the run ends at step 1" in done.stderr


def test_what_only_megatron_refuses_is_said_with_the_rank_and_without_a_traceback(
    corpora: Path, tmp_path: Path
) -> None:
    words = [*job(corpora, tmp_path), "moe_router_padding_for_quantization=true"]
    done = rehearse("pretrain/llama_1.1b_meap.yaml", *words, "--ranks=3")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("meap: error: rank 3 of 1,024: Megatron refuses the settings: ")
