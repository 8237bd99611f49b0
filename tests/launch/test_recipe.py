"""Recipes are checked key by key against the flags of Megatron's real parser."""

from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from meap_megatron.launch import preflight
from meap_megatron.launch.flags import Flag, read_flags
from meap_megatron.launch.named_settings import of_recipe
from meap_megatron.launch.recipe import load
from tests.support.runs import RECIPES

FLAGS = {
    "num_layers": Flag(option="--num-layers", kind="one", type="int", choices=None),
    "lr": Flag(option="--lr", kind="one", type="float", choices=None),
    "swiglu": Flag(option="--swiglu", kind="switch", type="other", choices=None),
    "data_path": Flag(option="--data-path", kind="many", type="other", choices=None),
    "normalization": Flag(option="--normalization", kind="one", type="str", choices=["LayerNorm", "RMSNorm"]),
    "train_iters": Flag(option="--train-iters", kind="one", type="int", choices=None),
}


def words(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "a.yaml").write_text("lr: 1\n")
    return load(tmp_path / "r.yaml", list(overrides)).command_line(FLAGS)


def test_groups_are_for_reading_only(tmp_path: Path) -> None:
    text = "description: x\nmodel:\n  num_layers: 2\n  swiglu: true\ndata:\n  data_path: [a, b]\nlr: 1.0e-3\n"
    assert words(tmp_path, text) == ["--num-layers=2", "--swiglu", "--data-path", "a", "b", "--lr=0.001"]


def test_an_override_replaces_and_false_switches_off(tmp_path: Path) -> None:
    text = "model: {num_layers: 2, swiglu: true}"
    assert words(tmp_path, text, "num-layers=3", "swiglu=false") == ["--num-layers=3"]


def test_a_recipe_stands_on_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {num_layers: 2}\nrun: {lr: 0.1}\n")
    assert words(tmp_path, "extends: base.yaml\nrun: {lr: 0.2}\n") == ["--num-layers=2", "--lr=0.2"]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("model: {}\n", ["lerning_rate=1"], "override lerning_rate=1: unknown key 'lerning_rate'; did you mean 'lr'?"),
        ("model:\n  num_layer: 2\n", [], "r.yaml:2: unknown key 'num_layer'; did you mean 'num_layers'?"),
        ("model:\n  num_layers: two\n", [], "r.yaml:2: num_layers='two' must be a whole number"),
        ("model:\n  num_layers: 2.5\n", [], "r.yaml:2: num_layers=2.5 must be a whole number"),
        ("model:\n  num_layers: true\n", [], "r.yaml:2: num_layers=True must be a whole number"),
        ("train_iters: -5\n", [], "r.yaml:1: train_iters=-5 must be at least 1"),
        ("lr: .nan\n", [], "r.yaml:1: lr=nan must be"),
        ("lr: -1\n", [], "r.yaml:1: lr=-1 must be above 0"),
        ("nproc: abc\n", [], "r.yaml:1: nproc='abc' must be a whole number"),
        ("nproc: -1\n", [], "r.yaml:1: nproc=-1 must be at least 0"),
        ("lr: fast\n", [], "r.yaml:1: lr='fast' must be a number"),
        ("swiglu: 3\n", [], "r.yaml:1: swiglu=3 must be true or false"),
        ("normalization: rms\n", [], "r.yaml:1: normalization='rms' is not one of LayerNorm, RMSNorm"),
        ("lr: [1, 2]\n", [], "r.yaml:1: lr takes one value"),
        ("a:\n  lr: 1\nb:\n  lr: 2\n", [], "r.yaml:4: duplicate key 'lr' (first at"),
        ("lr: 1\n", ["lr"], "override 'lr' is not of the form key=value"),
        ("lr: 1\n", ["lr=[1"], "is not a YAML value"),
        ("- 1\n", [], "a recipe is a mapping"),
        ("lr: [1\n", [], "r.yaml:2: not YAML"),
        ("lr: 1\nextends: r.yaml\n", [], "r.yaml:2: circular 'extends': "),
        ("extends:\n  - a.yaml\n  - ./a.yaml\n", [], "r.yaml:3: 'extends' names ./a.yaml twice (first at "),
        ("extends: a.yaml\nlr: 1\nextends: b.yaml\n", [], "r.yaml:3: duplicate key 'extends' (first at "),
        ("extends: []\n", [], "r.yaml:1: extends takes a file or a list of files"),
        ("extends: {a: b}\n", [], "r.yaml:1: extends takes a file or a list of files"),
        ("extends: none.yaml\n", [], "cannot read recipe"),
    ],
)
def test_a_fault_is_named_with_file_and_line(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        words(tmp_path, text, *overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_accepted_by_the_parser_that_megatron_declares(path: Path) -> None:
    assert load(path).command_line(read_flags())


def test_the_arms_of_a_pair_differ_only_in_the_objective() -> None:
    pairs = [p for p in sorted(RECIPES.rglob("*_meap.yaml"))]
    assert len(pairs) >= 5
    for meap in pairs:
        ntp = meap.with_name(meap.name.replace("_meap", "_ntp"))
        a, b = load(meap).settings, load(ntp).settings
        changed = {key for key in a.keys() | b.keys() if key not in a or key not in b or a[key].value != b[key].value}
        # Table 8 compares 2 epochs of MEAP with 4 of NTP; an extension continues from its own arm's pre-training.
        own = {"pretrained_checkpoint"} if meap.parent.name == "extend" else set()
        assert changed == {"save", "meap_mask_ratio"} | ({"meap_mask_strategy", "meap_epochs"} & a.keys()) | own


def test_dry_run_prints_the_command_line_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(RECIPES / "tiny_cpu_meap.yaml")
    assert main(["train", recipe, f"save={tmp_path / 'run'}", "train_iters=7", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("python -m meap_megatron.training.pretrain --num-layers=4")
    assert "--train-iters=7" in said and f"--load={tmp_path / 'run'}" in said
    assert not (tmp_path / "run").exists()


def test_of_several_files_that_a_recipe_extends_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("model: {num_layers: 2}\nrun: {lr: 0.1, train_iters: 5}\n")
    (tmp_path / "base.yaml").write_text("run: {lr: 0.2}\nlayouts:\n  2: {num_layers: 3}\n")
    text = "extends: [model.yaml, base.yaml]\nrun: {train_iters: 7}\n"
    assert words(tmp_path, text) == ["--num-layers=2", "--lr=0.2", "--train-iters=7"]
    assert words(tmp_path, text, "layout=2") == ["--num-layers=3", "--lr=0.2", "--train-iters=7"]


def test_a_circle_of_files_is_named_where_it_closes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("lr: 1\nextends:\n- a.yaml\n- r.yaml\n")
    with pytest.raises(UserError) as caught:
        words(tmp_path, "extends: [a.yaml, base.yaml]\n")
    named = [str(tmp_path / name) for name in ("r.yaml", "base.yaml", "r.yaml")]
    assert str(caught.value) == f"{named[1]}:4: circular 'extends': {' -> '.join(named)}; remove r.yaml here"


@pytest.mark.parametrize("base", ["pretrain", "continue", "sft"])
def test_a_base_recipe_lacks_nothing_but_model_and_data(tmp_path: Path, base: str) -> None:
    model = "num_layers: 2, hidden_size: 64, num_attention_heads: 4, seq_length: 64, make_vocab_size_divisible_by: 64"
    (tmp_path / "model.yaml").write_text(f"model: {{{model}}}\n")
    base_file = RECIPES / "base" / f"{base}.yaml"
    text = f"extends: [model.yaml, {base_file}]\ndata: {{data_path: [data/x]}}\nrun: {{save: runs/x}}\n"
    (tmp_path / "r.yaml").write_text(text)
    recipe = load(tmp_path / "r.yaml")
    given = of_recipe(recipe.resolved(), read_flags())
    said: list[str] = []
    done = preflight.complete(recipe.command_line(read_flags()), given, world=1, show=said.append)
    assert "--max-position-embeddings=64" in done
    assert said == []


def test_every_recipe_says_whether_it_fine_tunes_by_a_key_that_no_length_replaces() -> None:
    said = {str(path.relative_to(RECIPES)): load(path).get("meap_sft", False) for path in RECIPES.rglob("*.yaml")}
    assert said == {name: "sft" in name for name in said}


def test_a_run_that_saves_has_intervals_though_its_recipe_names_none(tmp_path: Path) -> None:
    text = (
        "num_layers: 2\nhidden_size: 64\nnum_attention_heads: 4\nseq_length: 64\nlr: 1.0e-3\ntrain_iters: 9\n"
        "mock_data: true\nvocab_size: 64\nsave: runs/x\nwandb_project: p\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    recipe = load(tmp_path / "r.yaml")
    done = preflight.complete(recipe.command_line(read_flags()), world=1, show=print)
    wanted = {"--micro-batch-size=1", "--max-position-embeddings=64", "--save-interval=500", "--eval-interval=500"}
    assert {*wanted, "--wandb-exp-name=x", "--tokenizer-type=NullTokenizer"} <= set(done)


def test_a_range_of_ratios_is_not_read_as_a_base_60_number(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("meap_mask_ratio: 0:0.5\nexit_signal: 1:30\nlr: 0.5\nseed: 5\n")
    recipe = load(tmp_path / "r.yaml", ["meap_mask_ratio=0.1:0.3"])
    assert recipe.get("meap_mask_ratio") == "0.1:0.3"
    recipe = load(tmp_path / "r.yaml")
    assert [recipe.get(key) for key in ("meap_mask_ratio", "exit_signal", "lr", "seed")] == ["0:0.5", "1:30", 0.5, 5]


def test_full_validation_counts_its_set_as_one_of_several() -> None:
    argv = "--num-layers=2 --hidden-size=64 --num-attention-heads=4 --seq-length=64 --lr=0.1 --train-iters=9".split()
    argv += ["--data-path=x", "--split=90,10,0"]
    switch = "--multiple-validation-sets"  # without it Megatron 0.19 fails at the first validation
    assert switch in preflight.complete([*argv, "--full-validation"], world=1, show=print)
    assert switch not in preflight.complete(argv, world=1, show=print)


def test_evaluation_is_off_and_said_to_be_where_the_split_leaves_nothing_for_it() -> None:
    argv = "--num-layers=2 --hidden-size=64 --num-attention-heads=4 --seq-length=64 --lr=0.1 --train-iters=9".split()
    said: list[str] = []
    done = preflight.complete([*argv, "--data-path=x", "--split=100,0,0", "--eval-iters=4"], world=1, show=said.append)
    assert done[-1] == "--eval-iters=0"
    assert said == ["no validation data, so no evaluation: split=100,0,0 leaves none"]


KEYS_OF_0_1_0 = """
check_checkpoint decay_norms device epochs init keep_checkpoints log mask_ratio mask_seed mask_strategy mask_token_id
mask_validation metrics peak_tflops protect_special sft_concat_order sft_layout sft_loss sft_loss_on_copy
sft_loss_on_original sft_min_answer sft_no_pack sft_over_long sft_refresh sft_sampler span_length trace
"""


def test_the_keys_of_the_first_version_are_still_accepted() -> None:
    assert {f"meap_{name}" for name in KEYS_OF_0_1_0.split()} - set(read_flags()) == set()
