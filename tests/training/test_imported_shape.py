"""A recipe of another model than the imported one is refused by name before anything is loaded."""

from pathlib import Path

import pytest

from meap_megatron.checkpoint.convert.record import ImportRecord, write_record
from meap_megatron.errors import UserError
from meap_megatron.launch.data_flags import check_shape

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
    record = {"source": "hf", "model": MODEL, "hf_rows": 49152, "vocab_size": 49152, "mask_id": None}
    write_record(tmp_path, ImportRecord(**record, files={}, metadata={}, libraries={}))  # type: ignore[arg-type]
    return tmp_path


@pytest.mark.parametrize("flag", ["--pretrained-checkpoint", "--load"])
def test_a_recipe_of_the_same_model_is_accepted(imported: Path, flag: str) -> None:
    check_shape([*FITTING, f"{flag}={imported}"])


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
        check_shape([*FITTING, *changes, f"--pretrained-checkpoint={imported}"])
    assert says.format(imported) in str(caught.value)
