"""Hugging Face -> Megatron -> Hugging Face gives back every byte; what is in between is what Megatron writes itself."""

import filecmp
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meap_megatron.atomic import replace_folder
from meap_megatron.checkpoint.convert.exporting import ExportSettings, plan_export, write_export
from meap_megatron.checkpoint.convert.hf_files import open_folder
from meap_megatron.checkpoint.convert.importing import ImportSettings, plan_import, write_import
from meap_megatron.checkpoint.convert.megatron_files import Chunk, open_checkpoint, write_checkpoint
from meap_megatron.errors import UserError
from tests.support.corpus import write_word_tokenizer
from tests.support.hf_models import MODELS, write_model
from tests.support.kills import finishes_before_step

FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def imported(source: Path, out: Path, **settings: Any) -> Path:
    plan = plan_import(ImportSettings(source=source, **settings))
    with replace_folder(out) as folder:
        write_import(plan, folder)
    return out


def exported(checkpoint: Path, out: Path, **settings: Any) -> Path:
    plan = plan_export(ExportSettings(checkpoint=checkpoint, **settings))
    with replace_folder(out) as folder:
        write_export(plan, folder)
    return out


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_file_comes_back_byte_for_byte(tmp_path: Path, name: str, dtype: str) -> None:
    # 500 rows: the checkpoint is padded to 512 and cut back.
    source = write_model(tmp_path / "hf", name, vocab_size=500, dtype=dtype, max_shard_size="200KB")
    back = exported(imported(source, tmp_path / "mc"), tmp_path / "back")
    names = sorted(path.name for path in source.iterdir())
    assert sum(n.endswith(".safetensors") for n in names) > 1
    assert sorted(path.name for path in back.iterdir() if path.name != "meap_eval.json") == names
    assert filecmp.cmpfiles(source, back, names, shallow=False)[0] == names


def test_without_the_import_beside_it_the_same_tensors_are_written(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = write_model(tmp_path / "hf", "qwen2-tied")
    mc = imported(source, tmp_path / "mc")
    (mc / "meap_import.json").unlink()
    tokenizer = write_tokenizer(tmp_path / "tokenizer", 511)
    back = exported(mc, tmp_path / "back", tokenizer=tokenizer)
    before, after = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((back / "config.json").read_text())["tie_word_embeddings"] is True


def test_layers_are_chunks_of_one_tensor_as_megatron_writes_them(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", "llama2")
    opened = open_checkpoint(imported(source, tmp_path / "mc"))
    index = opened.index.state_dict_metadata
    down = index["decoder.layers.mlp.linear_fc2.weight"]
    assert tuple(down.size) == (4, 64, 176)
    assert [(tuple(c.offsets), tuple(c.sizes)) for c in down.chunks] == [((n, 0, 0), (1, 64, 176)) for n in range(4)]
    gate_and_up = [open_folder(source).read(f"model.layers.2.mlp.{name}_proj.weight") for name in ("gate", "up")]
    assert torch.equal(opened.read_layer("mlp.linear_fc1.weight", 2), torch.cat(gate_and_up))
    # What Megatron's loader demands beside tensors, with local layers and with Transformer Engine.
    objects = {name for name in index if "_extra_state" in name}
    assert "decoder.final_layernorm._extra_state/shard_0_1" in objects
    assert "decoder.layers.self_attention.linear_qkv._extra_state/shard_3_4" in objects
    assert len(objects) == 4 * 4 + 1


def test_local_names_and_one_name_per_layer_are_read_too(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", "llama2")
    mc = imported(source, tmp_path / "mc")
    opened = open_checkpoint(mc)
    local = {
        "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
        "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
    }
    pieces = []
    for name, entry in opened.index.state_dict_metadata.items():
        if not hasattr(entry, "size"):
            continue
        whole = opened.read(name)
        suffix = name.removeprefix("decoder.layers.")
        if suffix == name:
            tensors = {name: whole}
        else:
            tensors = {f"decoder.layers.{n}.{local.get(suffix, suffix)}": whole[n] for n in range(4)}
        for key, tensor in tensors.items():
            shape = tuple(tensor.shape)
            pieces.append(
                Chunk(
                    name=key,
                    shape=shape,
                    offsets=(0,) * len(shape),
                    sizes=shape,
                    dtype=tensor.dtype,
                    make=lambda tensor=tensor: tensor.clone(),
                )
            )
    write_checkpoint(tmp_path / "other" / "release", pieces, args=opened.args, num_layers=4)
    back = exported(tmp_path / "other" / "release", tmp_path / "back", like=mc)
    assert filecmp.cmp(source / "model.safetensors", back / "model.safetensors", shallow=False)


def test_chunks_of_other_layouts_are_put_together(tmp_path: Path) -> None:
    # Tensor parallel 2 cuts the embedding by rows and the feed-forward projections in halves of gate and up.
    source = write_model(tmp_path / "hf", "llama2")
    mc = imported(source, tmp_path / "mc")
    opened = open_checkpoint(mc)
    pieces = []
    for name, entry in opened.index.state_dict_metadata.items():
        if not hasattr(entry, "size"):
            continue
        whole, axis = opened.read(name), 1 if name.startswith("decoder.layers.") else 0
        step = whole.shape[axis] // 4
        for part in range(4):
            offsets = tuple(part * step if i == axis else 0 for i in range(whole.dim()))
            piece = whole.narrow(axis, part * step, step).clone()
            pieces.append(
                Chunk(
                    name=name,
                    shape=tuple(whole.shape),
                    offsets=offsets,
                    sizes=tuple(piece.shape),
                    dtype=whole.dtype,
                    make=lambda piece=piece: piece,
                )
            )
    write_checkpoint(tmp_path / "cut" / "release", pieces, args=opened.args, num_layers=4)
    back = exported(tmp_path / "cut" / "release", tmp_path / "back", like=mc)
    assert filecmp.cmp(source / "model.safetensors", back / "model.safetensors", shallow=False)


def write_tokenizer(folder: Path, size: int) -> Path:
    """Write a tokenizer of `size` ids with BOS <s> and EOS </s>."""
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(3, size))]
    return write_word_tokenizer(folder, words, **FAST)


def tables(checkpoint: Path) -> tuple[torch.Tensor, torch.Tensor]:
    opened = open_checkpoint(checkpoint)
    return opened.read("embedding.word_embeddings.weight"), opened.read("output_layer.weight")


def test_a_new_mask_row_is_the_mean_in_embedding_and_head(tmp_path: Path) -> None:
    source = write_tokenizer(write_model(tmp_path / "hf", "llama2"), 512)
    before = tables(imported(source, tmp_path / "plain"))
    mc = imported(source, tmp_path / "mc", add_mask_token=True)
    for old, new in zip(before, tables(mc), strict=True):
        assert new.shape == (576, 64)
        assert torch.equal(new[:512], old)
        assert torch.allclose(new[512], old.double().mean(0).float())
        assert not new[513:].any()
    # The same rows for every tensor parallel size that the multiple covers.
    other = imported(source, tmp_path / "tp4", add_mask_token=True, tensor_parallel=4)
    assert all(torch.equal(a, b) for a, b in zip(tables(mc), tables(other), strict=True))

    back = exported(mc, tmp_path / "back")
    config = json.loads((back / "config.json").read_text())
    generation = json.loads((back / "generation_config.json").read_text())
    record = json.loads((back / "meap_eval.json").read_text())
    assert config["vocab_size"] == 513
    assert generation["suppress_tokens"] == [512]
    assert record["mask_token_id"] == 512
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(back)
    assert tokenizer.mask_token_id == 512 and len(tokenizer) == 513
    model = AutoModelForCausalLM.from_pretrained(back)
    assert model.get_input_embeddings().weight.shape == (513, 64)


def test_a_table_that_is_larger_than_its_tokenizer_is_never_shrunk(tmp_path: Path) -> None:
    source = write_tokenizer(write_model(tmp_path / "hf", "llama2", vocab_size=600), 500)
    mc = imported(source, tmp_path / "mc", add_mask_token=True, mask_token_init="token:w7")
    old, _ = tables(imported(source, tmp_path / "plain"))
    new, _ = tables(mc)
    assert new.shape == old.shape == (640, 64)
    assert torch.equal(new[500], old[7])  # the first free row, which was padding
    assert torch.equal(new[:500], old[:500]) and torch.equal(new[501:], old[501:])
    back = exported(mc, tmp_path / "back")
    assert json.loads((back / "config.json").read_text())["vocab_size"] == 600
    assert json.loads((back / "generation_config.json").read_text())["suppress_tokens"] == [500]


def test_the_recipe_builds_the_model_and_names_the_weights(tmp_path: Path) -> None:
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.launch.recipe import load

    mc = imported(write_model(tmp_path / "hf", "llama3-tied", rms_norm_eps=1e-5), tmp_path / "mc")
    (tmp_path / "mine.yaml").write_text("extends: mc/model.yaml\nrun:\n  save: runs/x\n")
    words = load(tmp_path / "mine.yaml").command_line(read_flags())
    assert {"--norm-epsilon=1e-05", "--use-rope-scaling", "--rope-scaling-factor=32.0", "--kv-channels=32"} <= set(
        words
    )
    assert f"--pretrained-checkpoint={mc.resolve()}" in words
    assert "--untie-embeddings-and-output-weights" not in words
    # An import that was moved is found where it is.
    mc.rename(tmp_path / "moved")
    (tmp_path / "mine.yaml").write_text("extends: moved/model.yaml\n")
    moved = load(tmp_path / "mine.yaml").command_line(read_flags())
    assert f"--pretrained-checkpoint={tmp_path / 'moved'}" in moved


def test_an_import_leaves_recipes_that_lack_nothing_but_data(tmp_path: Path) -> None:
    from meap_megatron.launch import preflight
    from meap_megatron.launch.flags import read_flags
    from meap_megatron.launch.named_settings import of_recipe
    from meap_megatron.launch.recipe import load
    from tests.support.runs import RECIPES

    source = write_model(tmp_path / "it's: 1 # model", "llama2", max_position_embeddings=64)
    mc = imported(source, tmp_path / "mc")

    def settings(name: str, *overrides: str) -> dict[str, object]:
        recipe = load(mc / name, list(overrides))
        given = of_recipe(recipe.resolved(), read_flags())
        preflight.complete(recipe.command_line(read_flags()), given, world=1, show=print)
        return {key: setting.value for key, setting in recipe.settings.items()}

    model = {key: setting.value for key, setting in load(mc / "model.yaml").settings.items()}
    for name, base in (("sft_meap", "sft"), ("continue", "continue")):
        with pytest.raises(UserError, match=rf"mc/{name}.yaml:\d+: no training data; set data_path to the prefix"):
            settings(f"{name}.yaml")
        expected = {key: setting.value for key, setting in load(RECIPES / "base" / f"{base}.yaml").settings.items()}
        own = {"data_path": "data/x", "save": f"runs/it_s__1___model_{name}", "seq_length": 64}
        assert settings(f"{name}.yaml", "data_path=data/x") == expected | model | own
    meap, ntp = (settings(f"sft_{arm}.yaml", "data_path=data/x") for arm in ("meap", "ntp"))
    assert {key for key in meap if meap[key] != ntp[key]} == {"save", "meap_mask_ratio"} and meap.keys() == ntp.keys()


def test_another_model_is_not_taken_for_the_import(tmp_path: Path) -> None:
    one = imported(write_model(tmp_path / "a", "llama2"), tmp_path / "one")
    other = imported(write_model(tmp_path / "b", "llama2", num_hidden_layers=2), tmp_path / "other")
    with pytest.raises(UserError, match="num_layers: 2, 4"):
        plan_export(ExportSettings(checkpoint=one, like=other))


def test_a_killed_import_or_export_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    models = [
        write_model(tmp_path / name, "llama2", num_hidden_layers=layers) for name, layers in (("a", 1), ("b", 2))
    ]
    first, second = (imported(source, tmp_path / f"mc_{source.name}") for source in models)
    places = tmp_path / "mc", tmp_path / "hf"

    def layers_found() -> tuple[int, int]:
        export = json.loads((places[1] / "config.json").read_text())["num_hidden_layers"]
        assert (places[1] / "meap_eval.json").is_file()
        return open_checkpoint(places[0]).args.num_layers, export

    for what, run in enumerate((lambda: imported(models[1], places[0]), lambda: exported(second, places[1]))):
        for step in range(0, 200, 3):
            imported(models[0], places[0])
            exported(first, places[1])
            finished = finishes_before_step(run, tmp_path, step)
            found = layers_found()
            assert found[1 - what] == 1 and found[what] in (1, 2)
            if finished:
                break
        assert finished and found[what] == 2 and step > 9
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "hf", "mc", "mc_a", "mc_b"]
