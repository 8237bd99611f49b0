"""A recipe made for GPUs runs elsewhere without what only they can do, and says so; a request is not dropped quietly."""

import shlex
from pathlib import Path

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch.fitted import fitted
from meap_megatron.launch.recipe import load
from tests.support.runs import RECIPES

RECIPE = """\
precision: bf16
speed:
  cross_entropy_loss_fusion: true
  cross_entropy_fusion_impl: native
  manual_gc: true
"""


def of(tmp_path: Path, device: str | None, *words: str) -> tuple[dict[str, object], list[str]]:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe, notes = fitted(load(path, list(words)), device)
    return {name: setting.value for name, setting in recipe.resolved().items()}, notes


def test_on_a_gpu_in_bfloat16_a_recipe_stays_as_it_is(tmp_path: Path) -> None:
    for device in ("cuda", None):
        assert of(tmp_path, device) == (
            {
                "bf16": True,
                "cross_entropy_loss_fusion": True,
                "cross_entropy_fusion_impl": "native",
                "manual_gc": True,
            },
            [],
        )


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("precision=fp32", "its gradient is bfloat16, and this run is not"),
        ("precision=null", "its gradient is bfloat16, and this run is not"),
        ("deterministic_mode=true", "deterministic_mode forbids it"),
    ],
)
@pytest.mark.parametrize("device", ["cuda", None])
def test_fused_cross_entropy_is_left_out_where_it_is_wrong(
    word: str, reason: str, device: str | None, tmp_path: Path
) -> None:
    settings, notes = of(tmp_path, device, word)
    assert not any(name.startswith("cross_entropy") for name in settings) and settings["manual_gc"]
    assert notes == [f"cross_entropy_loss_fusion is left out: {reason}"]
    with pytest.raises(UserError, match=f"override cross_entropy_loss_fusion=true: this run cannot use it: {reason}"):
        of(tmp_path, device, word, "cross_entropy_loss_fusion=true")


def test_on_a_cpu_a_recipe_in_bfloat16_runs_in_float32_unless_the_command_line_says_bfloat16(tmp_path: Path) -> None:
    settings, notes = of(tmp_path, "cpu")
    assert settings == {"manual_gc": True} and len(notes) == 1 and "this run is float32" in notes[0]
    assert "continue in float32 only" in notes[0]
    _, notes = of(tmp_path, "cpu", "use_distributed_optimizer=true")
    assert "continue in float32 only" not in notes[0]
    for word in ("precision=bf16", "bf16=true"):
        settings, notes = of(tmp_path, "cpu", word)
        assert settings == {"bf16": True, "manual_gc": True} and notes == []


def test_eight_bits_on_a_cpu_are_not_turned_into_float32(tmp_path: Path) -> None:
    settings, _ = of(tmp_path, "cpu", "precision=fp8-delayed")
    assert settings["bf16"] and settings["fp8_format"] == "hybrid"


def test_a_dry_run_shows_what_a_gpu_gets_and_a_cpu_where_the_recipe_names_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from meap_megatron.cli.main import main

    recipe = str(RECIPES / "pretrain" / "llama_0.1b_meap.yaml")
    for word, there in (("device=auto", True), ("device=cpu", False)):
        assert main(["train", recipe, word, "--dry-run"]) == 0
        words = shlex.split(capsys.readouterr().out)
        assert ("--bf16" in words) is there and ("--cross-entropy-loss-fusion" in words) is there
