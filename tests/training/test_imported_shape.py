"""A recipe of another model than the imported one is refused by name before anything is loaded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meap_megatron.checkpoint.convert.record import ImportRecord, write_record
from meap_megatron.errors import UserError
from meap_megatron.launch.data_flags import check_shape, tokenizer_flags
from meap_megatron.launch.named_settings import of_command_line

MODEL = {
    "family": "llama",
    "num_layers": 30,
    "hidden_size": 576,
    "ffn_hidden_size": 1536,
    "num_attention_heads": 9,
    "num_query_groups": 3,
    "head_dim": 64,
    "vocab_rows": 49152,
    "rotary_base": 10000,
    "rope_factor": None,
    "norm_epsilon": 1e-5,
    "max_positions": 2048,
    "tied": True,
    "qkv_bias": False,
}
FITTING = (
    "--num-layers=30 --hidden-size=576 --ffn-hidden-size=1536 --num-attention-heads=9 --group-query-attention "
    "--num-query-groups=3 --kv-channels=64"
).split()


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    write_record(tmp_path, record_of(MODEL))
    return tmp_path


def record_of(model: dict[str, Any]) -> ImportRecord:
    record = {"source": "hf", "model": model, "hf_rows": 49152, "vocab_size": 49152, "mask_id": None}
    return ImportRecord(**record, files={}, metadata={}, libraries={})  # type: ignore[arg-type]


@pytest.mark.parametrize("flag", ["--pretrained-checkpoint", "--load"])
def test_a_recipe_of_the_same_model_is_accepted(imported: Path, flag: str) -> None:
    check_shape(of_command_line([*FITTING, f"{flag}={imported}"]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            ["--num-layers=4"],
            "the recipe has num_layers=4, the model in {0} 30; take its settings: extends: {0}/model.yaml",
        ),
        (["--num-layers=4", "--hidden-size=128"], "num_layers=4, the model in {0} 30 (also different: hidden_size)"),
        (
            ["--untie-embeddings-and-output-weights"],
            "untie_embeddings_and_output_weights=true, the model in {0} False",
        ),
    ],
)
def test_another_model_is_named_with_the_way_out(imported: Path, changes: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        check_shape(of_command_line([*FITTING, *changes, f"--pretrained-checkpoint={imported}"]))
    assert says.format(imported) in str(caught.value)


def test_norms_and_layers_without_rotation_that_the_recipe_lacks_are_named(tmp_path: Path) -> None:
    parts = {"family": "smollm3", "qk_norm": True, "no_rope": [9, 19, 29], "scaling": None}
    write_record(tmp_path, record_of({k: v for k, v in MODEL.items() if k != "rope_factor"} | parts))
    given = [*FITTING, f"--load={tmp_path}"]
    check_shape(of_command_line([*given, "--qk-layernorm", "--no-rope-freq=10"]))
    with pytest.raises(UserError, match="has qk_layernorm=false, the model in .* True .also different: no_rope_freq"):
        check_shape(of_command_line(given))
    with pytest.raises(UserError, match="has no_rope_freq=15, the model in .* 10; take its settings"):
        check_shape(of_command_line([*given, "--qk-layernorm", "--no-rope-freq=15"]))


def test_the_rows_are_those_of_the_imported_table_where_nothing_says_otherwise(imported: Path) -> None:
    info = SimpleNamespace(vocab_size=40_000)
    data = [SimpleNamespace(tokenizer=info)]
    flags = tokenizer_flags(of_command_line([f"--pretrained-checkpoint={imported}"]), data, ["data"])  # type: ignore[arg-type]
    assert flags == ["--tokenizer-type=NullTokenizer", "--vocab-size=40000", "--padded-vocab-size=49152"]
    assert "--padded-vocab-size=40064" in tokenizer_flags(of_command_line([]), data, ["data"])  # type: ignore[arg-type]
