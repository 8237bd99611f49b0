"""Which layouts are valid, which is chosen, and what is said when there is none."""

from dataclasses import replace

import pytest
import yaml

from meap_megatron.errors import UserError
from meap_megatron.planning.gpus import GB, GPUS, find
from meap_megatron.planning.job import PlannedJob, read
from meap_megatron.planning.layout import FULL, PlannedLayout
from meap_megatron.planning.search import Result, layouts, price, search
from meap_megatron.training.peak import BF16_PEAK_TFLOPS
from tests.support.runs import RECIPES


def job_of(name: str, *overrides: str) -> PlannedJob:
    return read(RECIPES / f"{name}.yaml", list(overrides))


def found(name: str, gpus: int, kind: str = "h100", *overrides: str) -> Result:
    return search(job_of(name, *overrides), find(kind), gpus=gpus, node=8)


def test_every_layout_keeps_megatrons_rules() -> None:
    job = job_of("extend/llama_1.1b_64k_ntp")
    seen = list(layouts(job, gpus=128, node=8))
    assert len(seen) == len(set(seen)) > 100
    for layout in seen:
        assert layout.gpus == 128 and layout.tensor in (1, 2)  # two query groups
        assert layout.micro_batch * layout.num_micro_batches * layout.data == 16
        assert 24 % (layout.pipeline * layout.virtual) == 0
        assert layout.virtual == 1 or layout.num_micro_batches % layout.pipeline == 0
        assert layout.context == 1 or 65536 % (2 * layout.context) == 0
        assert layout.sequence_parallel == (layout.tensor > 1)
    assert {layout.context for layout in seen} >= {4, 8, 16, 32}
    # three stages: 8 micro-batches cannot be interleaved over them
    three = [layout for layout in layouts(job_of("pretrain/llama_1.1b_ntp"), gpus=24, node=8) if layout.pipeline == 3]
    assert three and {layout.virtual for layout in three} == {1}


def test_packed_rows_are_never_cut_and_tensor_parallel_stays_in_a_node() -> None:
    seen = list(layouts(job_of("sft/llama3_8b_meap"), gpus=64, node=4))
    assert {layout.context for layout in seen} == {1} and {layout.tensor for layout in seen} == {1, 2, 4}


def test_the_best_is_the_fastest_that_fits_or_a_simpler_one_as_fast() -> None:
    result = found("sft/llama3_8b_ntp", 8)
    assert result.best.memory.total <= 80 * GB
    assert [plan.seconds for plan in result.fitting] == sorted(plan.seconds for plan in result.fitting)
    assert result.best.seconds <= 1.02 * result.fitting[0].seconds
    assert result.own is not None and result.best.seconds <= result.own.seconds
    assert 0 < result.fit <= result.valid
    # By hand: nothing that fits is faster.
    job = job_of("sft/llama3_8b_ntp")
    every = [price(job, find("h100"), layout) for layout in layouts(job, gpus=8, node=8)]
    assert min(plan.seconds for plan in every if plan.memory.total <= 80 * GB) >= result.fitting[0].seconds / 1.006


def test_less_memory_leads_to_recomputation_and_then_to_more_ranks_per_model() -> None:
    job = job_of("sft/llama3_8b_ntp")
    sizes = [
        search(job, replace(find("h100"), memory=memory * GB), gpus=16, node=8).best for memory in (141, 80, 40, 20)
    ]
    assert all(plan.memory.total <= memory * GB for plan, memory in zip(sizes, (141, 80, 40, 20), strict=True))
    assert [plan.seconds for plan in sizes] == sorted(plan.seconds for plan in sizes)
    assert sizes[0].layout.tensor * sizes[0].layout.pipeline < sizes[-1].layout.tensor * sizes[-1].layout.pipeline
    long = search(job_of("extend/llama_1.1b_64k_ntp"), replace(find("h100"), memory=30 * GB), gpus=2, node=8).best
    assert long.layout.recompute == FULL


def test_a_faster_gpu_is_never_slower() -> None:
    seconds = [found("sft/llama3_8b_ntp", 16, kind).best.seconds for kind in ("a100", "h100", "h200", "b200")]
    assert seconds == sorted(seconds, reverse=True) and len(set(seconds)) == 4


def test_cost_follows_from_the_time_of_a_step() -> None:
    best = found("pretrain/llama_1.1b_ntp", 64).best
    assert best.job.tokens == 190_000 * 256 * 4096
    assert best.days == pytest.approx(190_000 * best.seconds / 86_400)
    assert best.gpu_hours == pytest.approx(190_000 * best.seconds / 3600 * 64)
    assert best.mfu == pytest.approx(best.model.flop_per_token(4096) * 256 * 4096 / best.seconds / (64 * 989.5e12))
    assert 0.2 < best.mfu < 0.6


def test_flop_are_those_that_megatron_counts() -> None:
    # num_floating_point_operations of megatron-core 0.19 by hand; 6 L q s for causal attention
    job = job_of("pretrain/llama_1.1b_ntp")
    layer = 2048 * (2048 + 2 * 128) + 2048 * 2048 + 3 * 2048 * 5632
    assert job.model(1).flop_per_token(4096) == 6 * (24 * layer + 2048 * 32064 + 24 * 2048 * 4096)


def test_peaks_are_those_against_which_training_states_its_mfu() -> None:
    assert {name: GPUS[name].bf16 / 1e12 for name in GPUS} == {name: BF16_PEAK_TFLOPS[name.upper()] for name in GPUS}


def test_fp8_takes_only_layouts_whose_shapes_fit_and_only_gpus_that_have_it() -> None:
    assert {
        plan.layout.tensor for plan in found("pretrain/llama_0.3b_ntp", 64, "h100", "precision=fp8-tensorwise").fitting
    } == {1}
    with pytest.raises(UserError, match=r"A100 SXM 80 GB has no FP8 units; add precision=bf16"):
        found("pretrain/llama_0.3b_ntp", 64, "a100", "precision=fp8-tensorwise")


@pytest.mark.parametrize(
    ("name", "gpus", "says"),
    [
        ("pretrain/llama_1.1b_ntp", 0, "--gpus 0 must be at least 1"),
        ("pretrain/llama_1.1b_ntp", -8, "--gpus -8 must be at least 1"),
        ("pretrain/llama_1.1b_ntp", 12, "--gpus 12 must be a multiple of 8"),
        ("sft/qwen2.5_14b_ntp", 56, r"divide the global_batch_size of 24.*these numbers of GPUs work: 32, 48, 64, 72"),
        (
            "sft/qwen2.5_14b_ntp",
            2,
            r"no layout fits: the smallest needs 13\d\.\d GB per GPU, there are 80 GB \(TP 2.*full\)",
        ),
    ],
)
def test_what_cannot_be_planned_is_said_with_what_would_help(name: str, gpus: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        found(name, gpus)


def test_numbers_of_gpus_that_are_offered_work() -> None:
    with pytest.raises(UserError) as refused:
        found("sft/qwen2.5_14b_ntp", 56)
    for count in str(refused.value).split("GPUs work: ")[1].split(".")[0].split(", "):
        assert found("sft/qwen2.5_14b_ntp", int(count)).fit > 0


def test_unknown_gpus_and_models_without_formulas_are_refused() -> None:
    with pytest.raises(UserError, match="--gpu v100: there are figures for a100, h100, h200, b200 only"):
        find("v100")
    with pytest.raises(UserError, match="num_experts=8: there are no formulas for mixtures of experts"):
        job_of("pretrain/llama_1.1b_ntp", "num_experts=8")
    with pytest.raises(UserError, match="global_batch_size=None: a plan needs a whole number above 0"):
        job_of("pretrain/llama_1.1b_ntp", "global_batch_size=null")


def test_what_is_assumed_is_said() -> None:
    job = job_of("sft/llama3_8b_meap")
    assert job.pieces == 128_257 and any("a vocabulary of 128,257 ids" in note for note in job.notes)
    assert job.tokens is None and found("sft/llama3_8b_meap", 8).best.days is None
    tiny = job_of("tiny_cpu_ntp")
    assert any("precision=bf16" in note for note in tiny.notes) and tiny.pieces == 32_001
    assert not any("vocabulary" in note for note in job_of("tiny_cpu_ntp", "vocab_size=4097").notes)


def test_the_settings_of_a_layout_are_megatrons() -> None:
    layout = PlannedLayout(
        tensor=2, pipeline=4, virtual=2, recompute=FULL, sequence_parallel=True, distributed_optimizer=False
    )
    settings = layout.settings()
    assert settings["num_virtual_stages_per_pipeline_rank"] == 2 and settings["recompute_method"] == "uniform"
    assert settings["overlap_param_gather"] is False  # Megatron refuses it without the distributed optimizer
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
