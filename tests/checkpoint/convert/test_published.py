"""The models that people have: converter, planner, recipes and transformers count the parameters that were published."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from meap_megatron.checkpoint.convert.hf_config import config_from_spec, spec_from_config
from meap_megatron.checkpoint.convert.megatron_config import recipe_settings
from meap_megatron.launch.recipe import load
from meap_megatron.planning.job import read
from tests.checkpoint.convert.published import PUBLISHED
from tests.support.runs import RECIPES


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_side_counts_the_parameters_that_were_published(name: str, tmp_path: Path) -> None:
    import torch
    import transformers

    config, parameters = PUBLISHED[name]
    spec = spec_from_config(config, source=name)
    assert spec.num_parameters == parameters
    batch = {"global_batch_size": 8, "seq_length": 4096, "train_iters": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": recipe_settings(spec), "optimizer": batch}))
    assert read(tmp_path / "recipe.yaml", ["precision=bf16"]).model(1).parameters == parameters
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    assert theirs.num_parameters() == parameters
    # What an export without the original config writes is the same model to transformers.
    written = transformers.AutoConfig.for_model(**config_from_spec(spec, base={}, dtype="bfloat16"))
    for field in ("rope_parameters", "no_rope_layers", "head_dim", "tie_word_embeddings", "sliding_window"):
        mine, its = getattr(written, field, None), getattr(theirs.config, field, None)
        assert mine == (its if field != "head_dim" else its or spec.head_dim), field


@pytest.mark.parametrize("size", ["0.6B", "1.7B", "4B", "8B", "14B"])
def test_the_recipes_of_qwen3_are_the_published_models(size: str) -> None:
    spec = spec_from_config(PUBLISHED[f"Qwen3-{size}"][0], source=size)
    recipe = load(RECIPES / f"sft/qwen3_{size.lower()}_ntp.yaml")
    expected: dict[str, Any] = recipe_settings(spec)
    assert {name: recipe.get(name) for name in expected} == expected
    assert bool(recipe.get("untie_embeddings_and_output_weights")) == (not spec.tied)
