"""Time of a step: beside published measurements, and what each part must do when one number changes."""

from dataclasses import replace

import pytest

from meap_megatron.planning.gpus import A100, H100
from meap_megatron.planning.job import read
from meap_megatron.planning.layout import FULL, SELECTIVE, PlannedLayout
from meap_megatron.planning.step import Step, step
from tests.planning.published import FITTED, HELD_OUT, Case, cases, gpt, korthikanti, llama, table
from tests.support.runs import RECIPES, ROOT

CASES = cases()


def test_estimates_are_within_15_percent_of_published_throughput() -> None:
    off = {(case.source, case.name, case.layout): case.error for case in CASES}
    assert {what: error for what, error in off.items() if abs(error) > 0.15} == {}
    assert len(off) == 39 and max(map(abs, off.values())) < 0.10  # as report and documentation say


def test_measurements_that_nothing_was_fitted_to_come_out_as_well_as_the_others() -> None:
    def typical(fitted: str) -> float:
        errors = [abs(case.error) for case in CASES if case.fitted == fitted]
        assert len(errors) >= 10
        return sum(errors) / len(errors)

    assert typical(HELD_OUT) < 0.06 and typical(FITTED) < 0.06


def test_the_seconds_of_korthikanti_agree_with_the_mfu_that_megatron_states_for_the_same_runs() -> None:
    # Megatron-LM's README of 2022: 22B 41.5 %, 175B 51.4 %, 530B 56.0 %, 1T 56.3 %; model FLOP by the paper's appendix A
    stated = {"GPT 22B, selective": 0.415, "GPT 175B, selective": 0.514, "GPT 1T, selective": 0.563}
    for case in korthikanti():
        if case.name in stated:
            assert utilisation(case) == pytest.approx(stated[case.name], abs=0.006)


def utilisation(case: Case) -> float:
    layers, hidden, s = case.model.num_layers, case.model.hidden_size, case.seq_length
    flop = 72 * layers * hidden**2 * (1 + s / (6 * hidden) + case.model.vocabulary / (12 * hidden * layers))
    return case.tokens_per_second * flop / A100.bf16


def test_the_table_in_the_documentation_is_the_one_that_the_code_gives() -> None:
    assert table() in (ROOT / "docs" / "planning.md").read_text()


BASE = PlannedLayout(pipeline=4, data=4, num_micro_batches=16)


def of(layout: PlannedLayout, *, seq_length: int = 4096) -> Step:
    return step(llama(32, 4096, 11008, 32, 8, 32000), H100, layout, seq_length=seq_length)


def test_the_bubble_is_that_of_narayanan() -> None:
    # (p - 1) / (v m) of the time in which a stage computes, if its last stage had no more to do than the others
    model = replace(llama(32, 4096, 11008, 32, 8, 32000), vocabulary=1)
    plain = step(model, H100, BASE, seq_length=4096)
    chunks = step(model, H100, replace(BASE, virtual=4), seq_length=4096)
    busy = plain.matrices + plain.attention + plain.elementwise + plain.pipeline
    assert plain.bubble / busy == pytest.approx(3 / 16, rel=1e-3)
    busy = chunks.matrices + chunks.attention + chunks.elementwise + chunks.pipeline
    assert chunks.bubble / busy == pytest.approx(3 / (16 * 4), rel=1e-3)


def test_matrix_products_take_their_flop_at_the_rate_of_the_gpu() -> None:
    model = gpt(2, 1024, 8)
    one = step(model, A100, PlannedLayout(micro_batch=4), seq_length=2048)
    assert one.matrices == pytest.approx(6 * 2 * 12 * 1024**2 * 4 * 2048 / (312e12 * A100.matrix_fraction))


def test_splitting_work_splits_it_and_sends_what_korthikanti_counts() -> None:
    one, two = of(BASE), of(replace(BASE, tensor=2, data=2, sequence_parallel=True))
    assert two.matrices == pytest.approx(one.matrices / 2) and two.elementwise == pytest.approx(one.elementwise / 2)
    assert one.tensor == 0 and one.sent["tensor"] == 0
    # 8 layers, 16 micro-batches, 8 collectives of half of 4,096 x 4,096 numbers in bfloat16
    assert two.sent["tensor"] == 8 * 16 * 8 * 2 * 4096 * 4096 / 2
    assert two.seconds > one.seconds / 2
    assert of(replace(BASE, tensor=2, data=2)).tensor > two.tensor  # backward hides half with sequence parallel


def test_data_parallel_sends_gradients_in_float32_and_weights_in_bfloat16() -> None:
    model = llama(4, 1024, 2816, 16, 16, 32000)
    alone = step(model, H100, PlannedLayout(), seq_length=4096)
    many = step(model, H100, PlannedLayout(data=4), seq_length=4096)
    assert alone.sent["data"] == 0 and alone.data == 0
    assert many.sent["data"] == pytest.approx(6 * model.parameters * 3 / 4)
    assert many.optimizer < alone.optimizer  # a quarter of the state each
    late = step(model, H100, PlannedLayout(data=4, data_overlap=False), seq_length=4096)
    assert late.data > 2 * many.data


def test_recomputation_costs_a_forward_pass_or_less() -> None:
    none, some, all_of_it = (of(replace(BASE, recompute=what)) for what in ("none", SELECTIVE, FULL))
    assert none.recompute == 0
    forward = (none.matrices + none.attention / 3.5 * 3 + none.elementwise) / 3
    assert all_of_it.recompute == pytest.approx(forward, rel=1e-6)
    assert 0.4 * forward < some.recompute < 0.8 * forward


def test_context_parallel_splits_a_long_sequence_at_the_price_of_a_ring() -> None:
    one = of(PlannedLayout(num_micro_batches=4), seq_length=65536)
    four = of(PlannedLayout(num_micro_batches=4, context=4), seq_length=65536)
    assert one.attention / 4 < four.attention < one.attention / 4 * 1.05
    # 32 layers, 4 micro-batches, keys and values of 1,024 channels in bfloat16, three times round
    assert four.sent["context"] == 32 * 4 * 3 * 3 * 2 * 2 * 16384 * 1024


def test_8_bits_speed_up_matrix_products_and_nothing_else() -> None:
    model = llama(32, 4096, 11008, 32, 8, 32000)
    half, full = (step(model, H100, BASE, seq_length=4096, fp8=fp8) for fp8 in (True, False))
    assert half.matrices < 0.6 * full.matrices
    assert (half.attention, half.head) == (full.attention, full.head)
    assert half.elementwise > full.elementwise  # the casts


def test_cross_entropy_that_is_not_fused_moves_28_bytes_more_per_logit() -> None:
    fused = read(RECIPES / "pretrain" / "llama_0.1b_ntp.yaml", vocabulary=32_001)
    for words in ([], ["precision=fp8-tensorwise"], ["deterministic_mode=true"], ["precision=fp32"]):
        job = read(RECIPES / "pretrain" / "llama_0.1b_ntp.yaml", words, vocabulary=32_001)
        layout = PlannedLayout(micro_batch=16, num_micro_batches=16)
        more = [step(one.model(1), H100, layout, seq_length=4096).head for one in (fused, job)]
        extra = 28 * 256 * 4096 * 32_064 / H100.stream if words and "fp8" not in words[0] else 0.0
        assert more[1] - more[0] == pytest.approx(extra, rel=1e-6)
