"""A plan of a hybrid model counts its attention and feed-forward layers, and cuts its pattern."""

import dataclasses

import pytest

from meap_megatron.errors import UserError
from meap_megatron.planning import files
from meap_megatron.planning.gpus import H100
from meap_megatron.planning.job import PlannedJob, read
from meap_megatron.planning.layout import FULL, SELECTIVE, PlannedLayout
from meap_megatron.planning.memory import of_stage
from meap_megatron.planning.search import price, search
from meap_megatron.planning.step import step
from tests.support.runs import RECIPES

GPT = RECIPES / "pretrain" / "llama_0.1b_meap.yaml"
LAYERS = 12


def job(*words: str) -> PlannedJob:
    return read(GPT, ["precision=bf16", *words], vocabulary=32_000)


def test_blocks_cost_what_those_of_the_gpt_do_however_they_are_written() -> None:
    gpt, hybrid = job(), job("model=hybrid")
    pattern = job("num_layers=null", f"hybrid_layer_pattern={'*-*-|' * 5}*-*-")
    assert gpt.model(2) == hybrid.model(2) == pattern.model(2) and gpt.model(2).num_layers == LAYERS
    layouts = [search(one, H100, gpus=8, node=8).best.layout for one in (gpt, hybrid, pattern)]
    assert layouts[0] == layouts[1] == layouts[2]


def test_attention_and_feed_forward_layers_are_counted_apart() -> None:
    base, mixed = job().model(1), job("num_layers=null", "hybrid_layer_pattern=*--*--*--").model(1)
    assert (mixed.num_layers, mixed.attentions, mixed.feed_forwards) == (3, 1, 2)
    h, q, kv, f = base.hidden_size, base.query_size, base.key_value_size, base.ffn_hidden_size
    attention, feed_forward = h * (2 * q + 2 * kv), 3 * h * f
    assert mixed.parameters == 3 * (attention + h) + 6 * (feed_forward + h) + h + 2 * base.table
    assert mixed.flop_per_token(4096) == 6 * (3 * attention + 6 * feed_forward + base.table + 3 * q * 4096)


@pytest.mark.parametrize("recompute", ["none", SELECTIVE, FULL])
def test_a_layer_of_two_blocks_costs_two_layers_of_one(recompute: str) -> None:
    layout = PlannedLayout(
        tensor=2, sequence_parallel=True, context=2, micro_batch=2, num_micro_batches=4, recompute=recompute
    )
    one = job().model(2)
    two = dataclasses.replace(one, num_layers=one.num_layers // 2, attentions=2, feed_forwards=2)
    parts = [step(model, H100, layout, seq_length=4096, fp8=True) for model in (one, two)]
    for name in ("matrices", "attention", "elementwise", "tensor", "host", "optimizer", "data"):
        assert getattr(parts[1], name) == pytest.approx(getattr(parts[0], name), rel=1e-2), name
    assert parts[1].sent == pytest.approx(parts[0].sent)
    if recompute != FULL:  # which keeps an input per block, and computes two again at once
        kept = [of_stage(model, layout, seq_length=4096, stage=0).counted for model in (one, two)]
        assert kept[0] == pytest.approx(kept[1])


def test_a_plan_writes_the_pattern_cut_and_nothing_that_megatron_refuses_beside_it() -> None:
    layout = PlannedLayout(pipeline=2, virtual=2, data=4, num_micro_batches=8, recompute=FULL)
    pattern = price(job("num_layers=null", f"hybrid_layer_pattern={'*--' * 4}"), H100, layout)
    written = files.settings_of(pattern)
    assert written["hybrid_layer_pattern"] == "*--|*--|*--|*--" and written["recompute_num_layers"] == 3
    assert written.get("num_virtual_stages_per_pipeline_rank") is None
    by_word = files.settings_of(price(job("model=hybrid"), H100, layout))
    assert by_word["num_virtual_stages_per_pipeline_rank"] == 2, "the word in the recipe makes the pattern of it"
    assert "hybrid_layer_pattern" not in by_word


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("E-*-", r"there are no formulas for mixture of experts layers \(E\)"),
        ("D-", r"sparse attention layers \(D\)"),
    ],
)
def test_layers_without_formulas_are_refused_by_name(pattern: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        job("num_layers=null", f"hybrid_layer_pattern={pattern}")
