"""`precision` becomes Megatron's flags; unsafe FP8 settings and shapes are refused; bfloat16 trains on a CPU."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch import precision
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.recipe import load
from tests.support.corpus import library_texts, write_dataset
from tests.support.runs import RECIPES, TINY, losses, meap, records, train

SHAPES: dict[str, Any] = {
    "bf16": True,
    "fp8_format": "hybrid",
    "fp8_recipe": "tensorwise",
    "hidden_size": 1024,
    "ffn_hidden_size": 2048,
    "num_attention_heads": 16,
    "group_query_attention": True,
    "num_query_groups": 2,
    "kv_channels": 64,
    "seq_length": 4096,
    "micro_batch_size": 1,
}


def flags_of(tmp_path: Path, *overrides: str) -> list[str]:
    """Return the precision's part of the command line of a recipe of one key."""
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    words = load(tmp_path / "r.yaml", list(overrides)).command_line(read_flags())
    return [word for word in words if word != "--seed=1"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fp32", []),
        ("bf16", ["--bf16"]),
        (
            "fp8-delayed",
            ["--bf16", "--fp8-format=hybrid", "--fp8-recipe=delayed"]
            + ["--fp8-amax-history-len=1024", "--fp8-amax-compute-algo=max"],
        ),
        (
            "fp8-tensorwise",
            ["--bf16", "--fp8-format=hybrid", "--fp8-recipe=tensorwise"],
        ),
        (
            "fp8-blockwise",
            ["--bf16", "--fp8-format=e4m3", "--fp8-recipe=blockwise"],
        ),
        ("mxfp8", ["--bf16", "--fp8-format=e4m3", "--fp8-recipe=mxfp8"]),
        ("null", []),
    ],
)
def test_a_precision_is_a_few_flags_of_megatron(tmp_path: Path, name: str, words: list[str]) -> None:
    assert flags_of(tmp_path, f"precision={name}") == words


def test_details_may_be_given_beside_a_precision(tmp_path: Path) -> None:
    given = ("precision=fp8-delayed", "fp8_amax_history_len=16", "bf16=true")
    assert sorted(flags_of(tmp_path, *given)) == [
        "--bf16",
        "--fp8-amax-compute-algo=max",
        "--fp8-amax-history-len=16",
        "--fp8-format=hybrid",
        "--fp8-recipe=delayed",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["precision=fp8"], "precision='fp8' is not one of fp32, bf16, fp8-delayed"),
        (["precision=[bf16]"], "is not one of"),
        (["precision=bf16", "bf16=false"], "precision=bf16 contradicts bf16=False"),
        (["precision=fp32", "bf16=true"], "precision=fp32 contradicts bf16=True"),
        (["precision=bf16", "fp16=true"], "precision=bf16 contradicts fp16=True"),
        (["precision=bf16", "fp8_format=e4m3"], "precision=bf16 contradicts fp8_format='e4m3'"),
        (["precision=mxfp8", "fp8_format=hybrid"], "precision=mxfp8 contradicts fp8_format='hybrid'"),
        (["precision=mxfp8", "fp8_recipe=delayed"], "precision=mxfp8 contradicts fp8_recipe='delayed'"),
        (["precision=mxfp8", "fp4_format=e2m1"], "precision=mxfp8 contradicts fp4_format='e2m1'"),
        (["precision=fp8-delayed", "device=cpu"], "FP8 (delayed) needs a GPU and Transformer Engine"),
        (["precision=mxfp8", "transformer_impl=local"], "FP8 (mxfp8) needs a GPU and Transformer Engine"),
        (["fp8_format=hybrid"], "FP8 (delayed) keeps weights in bfloat16; give bf16=true"),
        (["fp8_format=hybrid", "fp8_recipe=mxfp8", "bf16=true"], "fp8_recipe=mxfp8 with fp8_format=hybrid diverges"),
        (["precision=fp8-delayed", "first_last_layers_bf16=true"], "does not go with delayed scaling"),
        (["precision=mxfp8", "cuda_graph_impl=local"], "keeps FP8 inside the graphs of validation"),
        (["precision=fp8-delayed", "cuda_graph_impl=full_iteration"], "use cuda_graph_impl=transformer_engine"),
        (["precision=bf16", "fp8_param_gather=true"], "fp8_param_gather needs FP8 training"),
        (["reuse_grad_buf_for_mxfp8_param_ag=true"], "reuse_grad_buf_for_mxfp8_param_ag needs FP8 training"),
        (["precision=mxfp8", "reuse_grad_buf_for_mxfp8_param_ag=true"], "needs precision=mxfp8 and fp8_param_gather"),
        (
            ["precision=fp8-tensorwise", "reuse_grad_buf_for_mxfp8_param_ag=true", "fp8_param_gather=true"],
            "needs precision=mxfp8 and fp8_param_gather",
        ),
    ],
)
def test_contradictions_and_unsafe_pairs_are_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        flags_of(tmp_path, *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "changes", "wrong"),
    [
        ("tensorwise", {}, None),
        ("blockwise", {"fp8_format": "e4m3"}, None),
        ("tensorwise", {"hidden_size": 1000}, "hidden_size 1000"),
        ("delayed", {"ffn_hidden_size": 2744}, "ffn_hidden_size 2744"),
        ("delayed", {"ffn_hidden_size": 2736}, None),
        ("mxfp8", {"fp8_format": "e4m3", "ffn_hidden_size": 2736}, "ffn_hidden_size 2736"),
        ("blockwise", {"ffn_hidden_size": 2720}, "ffn_hidden_size 2720"),
        (
            "tensorwise",
            {"tensor_model_parallel_size": 2, "ffn_hidden_size": 2064},
            "ffn_hidden_size 2064 / TP 2 = 1032",
        ),
        ("tensorwise", {"num_attention_heads": 10, "kv_channels": 4}, "heads x channels 10 x 4 = 40"),
        ("blockwise", {"kv_channels": 24}, "(heads + 2 x groups) x channels (16 + 2 x 2) x 24 = 480"),
        ("tensorwise", {"kv_channels": 4, "tensor_model_parallel_size": 2}, "(16 + 2 x 2) x 4 / TP 2 = 40"),
        ("tensorwise", {"kv_channels": None, "hidden_size": 1024}, None),
        ("tensorwise", {"seq_length": 24}, "seq_length x micro_batch_size 24 x 1 = 24"),
        ("tensorwise", {"seq_length": 24, "micro_batch_size": 2}, None),
        # Rows are only split over the tensor-parallel ranks under sequence parallel.
        ("blockwise", {"seq_length": 128, "tensor_model_parallel_size": 2}, None),
        (
            "blockwise",
            {"seq_length": 128, "tensor_model_parallel_size": 2, "sequence_parallel": True},
            "128 x 1 / TP 2 (sequence_parallel) = 64",
        ),
        ("mxfp8", {"fp8_format": "e4m3", "seq_length": 96, "context_parallel_size": 2}, "96 x 1 / CP 2 = 48"),
        ("mxfp8", {"fp8_format": "e4m3", "seq_length": 128, "context_parallel_size": 2}, None),
        # The head is a product of FP8 only on request.
        ("mxfp8", {"fp8_format": "e4m3", "padded_vocab_size": 32001}, None),
        (
            "mxfp8",
            {
                "fp8_format": "e4m3",
                "padded_vocab_size": 32064,
                "tensor_model_parallel_size": 4,
                "fp8_output_proj": True,
            },
            "vocabulary 32064 / TP 4 = 8016",
        ),
        ("custom", {"hidden_size": 999}, None),
    ],
)
def test_every_dimension_must_be_a_multiple_on_each_rank(
    recipe: str, changes: dict[str, Any], wrong: str | None
) -> None:
    settings = SHAPES | {"fp8_recipe": recipe} | changes
    if wrong is None:
        precision.check(settings)
        return
    with pytest.raises(UserError) as caught:
        precision.check(settings)
    assert wrong in str(caught.value) and f"multiple of {precision.MULTIPLES[recipe]} on each rank" in str(
        caught.value
    )


def test_bf16_may_have_any_shape() -> None:
    precision.check(SHAPES | {"fp8_format": None, "hidden_size": 1001})


def test_all_shapes_that_do_not_fit_are_named_at_once() -> None:
    with pytest.raises(UserError, match=r"hidden_size 1000; ffn_hidden_size 100;"):
        precision.check(SHAPES | {"hidden_size": 1000, "ffn_hidden_size": 100, "seq_length": 1})


def test_the_recipes_of_the_ladder_say_their_precision_in_one_line() -> None:
    for path in [*(RECIPES / "pretrain").glob("*.yaml"), *(RECIPES / "sft").glob("*.yaml")]:
        recipe = load(path)
        assert recipe.get("precision") == "bf16" and recipe.get("bf16") is None, path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("precision"), library_texts(300_000))


def test_bf16_trains_on_a_cpu_as_fp32_does_within_its_precision(data: Path, tmp_path: Path) -> None:
    run = [f"data_path={data}", *TINY, "split=80,20,0", "train_iters=30", "eval_interval=30", "save=null", "nproc=1"]
    for name in ("fp32", "bf16"):
        train("tiny_cpu_meap.yaml", *run, f"precision={name}", f"meap_metrics={tmp_path / name / 'metrics.jsonl'}")
    full, half = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert list(half) == list(range(1, 31))
    worst = max(abs(half[step] - full[step]) / full[step] for step in full)
    # Not equal to fp32, and within bfloat16's relative precision of it at every step (measured: 0.00016).
    assert 1e-6 < worst < 2**-8
    assert half[30] < half[1] - 0.3
    start = records(tmp_path / "bf16" / "metrics.jsonl", "start")[-1]["run"]
    assert start["bf16"] is True and start["fp8"] is None


def test_fp8_without_transformer_engine_is_refused_instead_of_ignored(data: Path, tmp_path: Path) -> None:
    # device=auto on a machine without a GPU: only the arguments that Megatron resolved tell that FP8 has no effect.
    words = [*TINY, f"data_path={data}", "split=80,20,0", "precision=fp8-tensorwise", "save=null", "device=auto"]
    done = meap("train", RECIPES / "tiny_cpu_meap.yaml", *words, check=False)
    assert done.returncode == 2
    assert "needs a GPU and Transformer Engine" in done.stderr
