"""The recipes of the two arms differ in the mask ratio and the folder only, and the trainer takes them."""

from pathlib import Path

import pytest

from meap_megatron.demo.sizes import FULL, QUICK, meap_recipe, ntp_recipe
from meap_megatron.errors import UserError
from meap_megatron.launch import recipe as recipes
from meap_megatron.launch.flags import read_flags


def write_recipes(folder):
    prefix = Path("demo it's") / "data" / "stdlib"
    (folder / "ntp.yaml").write_text(ntp_recipe(FULL, prefix=prefix, save=Path("runs/ntp"), peak_tflops=0.1))
    (folder / "meap.yaml").write_text(meap_recipe(save=Path("runs/meap")))
    return [recipes.load(folder / name) for name in ("ntp.yaml", "meap.yaml")]


def test_the_arms_differ_in_the_mask_ratio_and_the_folder_only(tmp_path):
    ntp, meap = write_recipes(tmp_path)
    differing = {key for key in meap.settings if meap.get(key) != ntp.get(key)}
    assert differing == {"save", "meap_mask_ratio"}
    assert (ntp.get("meap_mask_ratio"), meap.get("meap_mask_ratio")) == (0.0, 0.15)


def test_a_path_with_a_quote_survives_the_recipe(tmp_path):
    assert write_recipes(tmp_path)[1].get("data_path") == ["demo it's/data/stdlib"]


def test_every_key_is_a_flag_of_the_trainer(tmp_path):
    flags = read_flags()
    for recipe in write_recipes(tmp_path):
        assert f"--train-iters={FULL.train_iters}" in recipe.command_line(flags)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 60, 599, 600, 601])
def test_no_validation_of_a_run_falls_on_its_last_step(steps):
    plan = QUICK.with_steps(steps)
    assert plan.eval_interval >= 1
    assert steps % plan.eval_interval != 0


def test_zero_steps_are_refused():
    with pytest.raises(UserError, match="--steps is 0; it must be at least 1"):
        QUICK.with_steps(0)
