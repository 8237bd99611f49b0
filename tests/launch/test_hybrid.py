"""`model: hybrid` turns a GPT's recipe into a layer pattern, and patterns that cannot be trained are refused."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch import arguments, pattern_rules, recipe
from meap_megatron.launch.flags import read_flags
from meap_megatron.launch.hybrid import settings_for
from meap_megatron.launch.named_settings import Settings
from meap_megatron.launch.recipe import Setting
from meap_megatron.layer_pattern import DELTA_NET, blocks_of

PP, FIRST, LAST = (
    "pipeline_model_parallel_size",
    "decoder_first_pipeline_num_layers",
    "decoder_last_pipeline_num_layers",
)
TP = "tensor_model_parallel_size"
VIRTUAL, SIZE = "num_virtual_stages_per_pipeline_rank", "num_layers_per_virtual_pipeline_stage"


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"num_layers": 3}, "*-*-*-"),
        ({"num_layers": "4", PP: 2}, "*-*-|*-*-"),
        ({"num_layers": 4, PP: 2, VIRTUAL: 2}, "*-|*-|*-|*-"),
        ({"num_layers": 8, PP: 2, SIZE: 2}, "*-*-|*-*-|*-*-|*-*-"),
        ({"num_layers": 8, PP: 3, FIRST: 2, LAST: 1}, "*-*-|*-*-*-*-*-|*-"),
        ({"num_layers": 5, PP: 2, FIRST: 2}, "*-*-|*-*-*-"),
        ({"num_layers": 7, PP: 2, "account_for_loss_in_pipeline_split": True}, "*-*-*-*-|*-*-*-"),
        ({"num_layers": 7, PP: 2, "account_for_embedding_in_pipeline_split": True}, "*-*-*-|*-*-*-*-"),
    ],
)
def test_a_gpt_becomes_the_pattern_of_its_blocks_cut_as_megatron_cuts_it(given: dict[str, Any], pattern: str) -> None:
    changed = settings_for("hybrid", given, origin="r.yaml:1")
    assert changed.pop("hybrid_layer_pattern") == pattern
    assert set(changed) == set(given) - {PP} and set(changed.values()) == {None}, "Megatron refuses both together"
    assert blocks_of(pattern) == int(given["num_layers"])


def test_settings_that_count_layers_count_two_per_block() -> None:
    given = {"num_layers": 4, "recompute_num_layers": 1, "first_last_layers_bf16": True}
    changed = settings_for("hybrid", given, origin="r.yaml:1")
    assert {name: value for name, value in changed.items() if "num_layers_at" in name or "recompute" in name} == {
        "recompute_num_layers": 2,
        "num_layers_at_start_in_bf16": 2,
        "num_layers_at_end_in_bf16": 2,
    }


@pytest.mark.parametrize(
    ("model", "given", "says"),
    [
        ("mamba", {"num_layers": 4}, "model='mamba' is not one of gpt, hybrid"),
        ("gpt", {"hybrid_layer_pattern": "*-"}, "model=gpt contradicts hybrid_layer_pattern"),
        ("hybrid", {}, "num_layers, which is not given"),
        ("hybrid", {"num_layers": 4.5}, "num_layers=4.5 must be a whole number above 0"),
        ("hybrid", {"num_layers": 5, PP: 2}, f"num_layers=5 cannot be cut into whole blocks by {PP}=2"),
        ("hybrid", {"num_layers": 4, VIRTUAL: 2}, f"cannot be cut into whole blocks by {VIRTUAL}=2"),
        ("hybrid", {"num_layers": 8, PP: 2, SIZE: 3}, f"{PP}=2, {SIZE}=3"),
        ("hybrid", {"num_layers": 4, PP: 2, FIRST: 5}, f"{FIRST}=5"),
        ("hybrid", {"num_layers": 4, "num_experts": 8}, "model=hybrid cannot express num_experts=8"),
        (
            "hybrid",
            {"num_layers": 4, "pipeline_model_parallel_layout": "Et|tL"},
            "pipeline_model_parallel_layout=Et|tL",
        ),
    ],
)
def test_what_is_no_pattern_of_blocks_is_refused_by_name(model: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_for(model, given, origin="r.yaml:7")
    assert str(caught.value).startswith("r.yaml:7: ") and says in str(caught.value)


def test_a_recipe_needs_nothing_but_the_word(tmp_path: Path) -> None:
    base = Path(__file__).resolve().parents[2] / "examples" / "recipes" / "tiny_cpu_meap.yaml"
    (tmp_path / "mine.yaml").write_text(f"extends: {base}\nmodel: hybrid\n")
    words = recipe.load(tmp_path / "mine.yaml", [f"{PP}=2"]).command_line(read_flags())
    assert "--hybrid-layer-pattern=*-*-|*-*-" in words
    assert not [word for word in words if word.startswith("--num-layers")]
    given = recipe.load(tmp_path / "mine.yaml", ["model=gpt"]).command_line(read_flags())
    assert given == recipe.load(base, []).command_line(read_flags())


def test_a_pattern_is_typed_as_it_is_and_quoted_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('model:\n  hybrid_layer_pattern: "*-*-"\n')
    assert recipe.load(tmp_path / "mine.yaml", []).get("hybrid_layer_pattern") == "*-*-"
    assert recipe.load(tmp_path / "mine.yaml", ["hybrid_layer_pattern=*--"]).get("hybrid_layer_pattern") == "*--"
    (tmp_path / "mine.yaml").write_text("model:\n  hybrid_layer_pattern: *-*-\n")
    with pytest.raises(UserError, match=r"mine.yaml:2: not YAML: .*; a value that begins with \* needs quotes"):
        recipe.load(tmp_path / "mine.yaml", [])


NET = dict.fromkeys(DELTA_NET, 4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hybrid_layer_pattern": "*-X"}, "contains 'X'; its layers are * (attention)"),
        ({"hybrid_layer_pattern": "*-/*-"}, "multi-token prediction (behind /) is not wired"),
        ({"hybrid_layer_pattern": "|", PP: 2}, "has no layer"),
        ({"hybrid_layer_pattern": "*-|*-|*-", PP: 2}, f"3 pipeline segments, which {PP}=2 does not divide"),
        ({"hybrid_layer_pattern": "*-|*-"}, "2 pipeline segments and pipeline_model_parallel_size is 1"),
        ({"hybrid_layer_pattern": "*--", PP: 2}, f"has 3 layers, which {PP}=2 does not divide; cut it with |"),
        ({"hybrid_layer_pattern": "*-|*-", PP: 2, FIRST: 2}, f"{FIRST}=2 does not go with hybrid_layer_pattern"),
        ({"hybrid_layer_pattern": "*-", VIRTUAL: 2}, f"{VIRTUAL}=2 does not go with hybrid_layer_pattern"),
        ({"hybrid_layer_pattern": "G-"}, "a gated delta net needs linear_key_head_dim, linear_value_head_dim"),
        (
            {"hybrid_layer_pattern": "G-", **NET, "linear_num_value_heads": 6},
            "must be a multiple of linear_num_key_heads=4",
        ),
        ({"hybrid_layer_pattern": "G-", **NET, TP: 8}, f"linear_num_key_heads=4 is not divisible by {TP}=8 x context"),
        (
            {"hybrid_layer_pattern": "M-", "hidden_size": 100, "mamba_head_dim": 64},
            "does not divide 2 x hidden_size = 200",
        ),
        ({"hybrid_layer_pattern": "M-", "hidden_size": 64, "mamba_num_groups": 8}, "the 2 heads of a Mamba-2 layer"),
        (
            {"hybrid_layer_pattern": "M-", "hidden_size": 512, "mamba_num_groups": 2, TP: 4},
            "not divisible by tensor_model",
        ),
        (
            {"hybrid_layer_pattern": "M-", "hidden_size": 512, "device": "cpu", "disable_mamba_mem_eff_path": True},
            "disable_mamba_mem_eff_path=true is an option of mamba-ssm's kernels, and device=cpu",
        ),
        ({"hybrid_layer_pattern": "D-", "device": "cpu"}, "sparse attention layers (D) need a GPU"),
        ({"hybrid_layer_pattern": "E", "transformer_impl": "local"}, "mixture of experts layers (E) need a GPU"),
    ],
)
def test_a_pattern_that_cannot_be_trained_is_refused_with_its_reason(given: dict[str, Any], says: str) -> None:
    table = {name: Setting(value=value, origin="r.yaml:3") for name, value in given.items()}
    found = list(map(str, pattern_rules.findings(Settings(table=table))))
    assert len(found) == 1 and found[0].startswith("r.yaml:3: ") and says in found[0]


def test_patterns_that_can_be_trained_are_left_alone() -> None:
    for given in (
        {"hybrid_layer_pattern": "*-*-|*-*-", PP: 2, "device": "cpu"},
        {"hybrid_layer_pattern": "*-|*-|*-|*-", PP: 2},
        {"hybrid_layer_pattern": "M-M*-", PP: 1, TP: 2, "hidden_size": 512},
        {"hybrid_layer_pattern": "M-", "device": "cpu", "hidden_size": 512},
        {"hybrid_layer_pattern": "G-*-", "device": "cpu", **NET},
    ):
        table = {name: Setting(value=value, origin="") for name, value in given.items()}
        assert list(pattern_rules.findings(Settings(table=table))) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reset_attention_mask": True}, r"--reset-attention-mask has no effect on Mamba-2 layers \(M\)"),
        ({"meap_device": "cuda"}, r"on a GPU, Mamba-2 layers \(M\) are computed by .*; install mamba-ssm, einops$"),
        (
            {"hybrid_layer_pattern": "G-", "dataloader_inter_document_masking": True},
            r"without a GPU a gated delta net \(G\) takes no segments",
        ),
        ({"hybrid_layer_pattern": "*-", "reset_attention_mask": True}, None),
        ({"dataloader_inter_document_masking": True}, None),
        ({"meap_device": "cuda", "fake_process_group": True}, None),
    ],
)
def test_layers_that_carry_a_state_are_refused_where_documents_would_share_it_or_without_their_kernels(
    change: dict[str, Any], says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "is_importable", lambda name: name == "causal_conv1d")
    monkeypatch.setattr(arguments, "resolve_device", lambda device: "cuda")
    args = dict.fromkeys(("reset_attention_mask", "dataloader_inter_document_masking", "fake_process_group"), False)
    args |= {"hybrid_layer_pattern": "M-*-", "meap_device": "cpu", "transformer_impl": "transformer_engine"} | change
    with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
        arguments.check_recurrent_layers(SimpleNamespace(**args))
