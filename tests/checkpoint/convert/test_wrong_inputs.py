"""Wrong inputs are named before anything is written, and no pickle runs."""

import json
import os
import pickle
from pathlib import Path

import pytest

from meap_megatron.checkpoint.convert.exporting import ExportSettings, plan_export
from meap_megatron.checkpoint.convert.hf_files import plan_shards, read_header
from meap_megatron.checkpoint.convert.megatron_files import open_checkpoint
from meap_megatron.checkpoint.convert.pickles import untrusted
from meap_megatron.cli.main import main
from meap_megatron.errors import RunError, UserError
from tests.checkpoint.convert.test_round_trip import imported, write_tokenizer
from tests.support.hf_models import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "hf", "llama3", max_shard_size="200KB")


@pytest.fixture
def broken(model: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    copy = tmp_path / "hf"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def refused(capsys: pytest.CaptureFixture[str], source: Path, *words: str) -> str:
    out = source.parent / "out"
    assert main(["convert", "import", str(source), str(out), *words]) == 2
    assert sorted(p.name for p in source.parent.iterdir() if "out" in p.name) == []
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_missing_shard(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = sorted(broken.glob("*.safetensors"))[1]
    victim.unlink()
    assert f"{victim} is missing" in refused(capsys, broken)


def test_a_truncated_shard(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = sorted(broken.glob("*.safetensors"))[0]
    os.truncate(victim, victim.stat().st_size - 1)
    assert f"{victim} is truncated" in refused(capsys, broken)
    os.truncate(victim, 4)
    assert "truncated or not a safetensors file" in refused(capsys, broken)


def test_another_family(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(broken, model_type="mixtral")
    assert "model_type 'mixtral'" in refused(capsys, broken)
    edit(broken, model_type="qwen2", architectures=["Qwen2ForCausalLM"])
    assert "self_attn.k_proj.bias" in refused(capsys, broken)


def test_a_config_of_another_size(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(broken, intermediate_size=192)
    assert "config.json says [192, 64]" in refused(capsys, broken)
    edit(broken, intermediate_size=176, num_hidden_layers=3)
    assert "does not have" in refused(capsys, broken)


def test_a_vocabulary_smaller_than_the_tokenizer(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(broken, 513)
    assert "gives ids up to 512, but the model has 512 rows" in refused(capsys, broken)


def test_tokens_that_were_added_without_resizing_the_model(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Tokenizer

    path = write_tokenizer(broken, 512) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<pad>", "<extra>"])
    tokenizer.save(str(path))
    said = refused(capsys, broken)
    assert "<pad> (512), <extra> (513) have no row" in said and "resize_token_embeddings" in said
    write_tokenizer(broken, 600)
    assert "another model's tokenizer" in refused(capsys, broken)


def test_a_tied_model_whose_files_hold_another_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    source = write_model(tmp_path / "hf", "llama3-tied")
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    imported(source, tmp_path / "same")
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert "tie_word_embeddings=true, but lm_head.weight is not model.embed_tokens.weight" in refused(capsys, source)


def test_an_adapter_beside_the_weights(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from meap_megatron.checkpoint.convert import verifying

    lora = LoraConfig(init_lora_weights=False, target_modules=["q_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(broken), lora)
    before = AutoModelForCausalLM.from_pretrained(broken)(torch.tensor([[5, 6]])).logits
    model.save_pretrained(broken)
    assert "merge_and_unload" in refused(capsys, broken)
    mc = imported(broken, tmp_path / "mc", ignore_adapter=True)
    assert not (mc / "hf" / "adapter_config.json").exists()
    # What the verification reads is the model without it too.
    given = {"ids": [5, 6], "positions": [0, 1], "first": 0}
    found = verifying.hf_logits(broken, layers=4, sequences=[given])[0]["logits"]
    assert torch.allclose(found, before[0])
    assert not torch.allclose(AutoModelForCausalLM.from_pretrained(broken)(torch.tensor([[5, 6]])).logits, before)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model.Q4_1.gguf"], "model.Q4_1.gguf, a GGUF file"),
        (["adapter_config.json", "adapter_model.safetensors"], "a LoRA adapter"),
        (["params.json", "consolidated.safetensors"], "original layout of Mistral or Meta"),
        (["latest_checkpointed_iteration.txt"], "`meap convert export`"),
        (["inner/config.json"], "inner has one"),
        (["refs/main", "snapshots/4e20/config.json"], "snapshots/4e20 has one"),
        ([], "no config.json"),
    ],
)
def test_a_folder_without_a_config_is_called_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")
    assert message in refused(capsys, folder)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 8268560\n"


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00003.safetensors", "tokenizer.json"])
def test_a_file_that_git_lfs_has_not_fetched(broken: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    victim = next(iter(sorted(broken.glob("*.safetensors")))) if name.startswith("model") else broken / name
    victim.write_text(POINTER)
    said = refused(capsys, broken, "--add-mask-token")
    assert f"{victim} is a Git LFS pointer, not the data\n  fix: fetch it with `git lfs pull`" in said


def test_a_folder_that_transformers_cannot_load(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(broken, auto_map=None)
    said = refused(capsys, broken)
    assert f"transformers cannot load {broken}" in said and "--skip-verification" in said


def test_shards_without_their_index(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken / "model.safetensors.index.json").unlink()
    assert "copy model.safetensors.index.json" in refused(capsys, broken)


def test_a_number_of_layers_below_one(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "verify", str(broken), str(broken), "--verify-layers", "0"]) == 2
    assert "argument --verify-layers" in capsys.readouterr().err


def test_layouts_that_do_not_divide_the_model(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "use one of 1, 2, 4" in refused(capsys, broken, "--tensor-model-parallel-size", "3")
    assert "4 layers" in refused(capsys, broken, "--pipeline-model-parallel-size", "3")


def test_no_tokenizer_for_the_mask_token(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name one with --tokenizer" in refused(capsys, broken, "--add-mask-token")
    write_tokenizer(broken, 500)
    assert "no token 'w600'" in refused(capsys, broken, "--add-mask-token", "--mask-token-init", "token:w600")
    assert "mean, random, token:X" in refused(capsys, broken, "--add-mask-token", "--mask-token-init", "zero")


def test_weights_that_are_a_pickle(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (*broken.glob("*.safetensors"), broken / "model.safetensors.index.json"):
        path.unlink()
    (broken / "pytorch_model.bin").write_bytes(b"")
    assert "is a pickle, which is never loaded" in refused(capsys, broken)


def test_an_existing_folder_is_replaced_only_if_asked_and_if_an_import_made_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["convert", "import", str(model), str(out), "--skip-verification"]
    assert main(words) == 0
    assert main(words) == 2 and "replace it with --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    (out / "meap_import.json").unlink()
    assert main([*words, "--overwrite"]) == 2 and "not made by this command" in capsys.readouterr().err


def test_a_torn_checkpoint_is_named(model: Path, tmp_path: Path) -> None:
    mc = imported(model, tmp_path / "mc")
    data = mc / "release" / "__0_0.distcp"
    os.truncate(data, data.stat().st_size // 2)
    with pytest.raises(UserError, match="truncated"):
        open_checkpoint(mc)
    data.unlink()
    with pytest.raises(UserError, match=r"__0_0.distcp is missing"):
        open_checkpoint(mc)
    (mc / "release" / ".metadata").write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="damaged"):
        open_checkpoint(mc)
    with pytest.raises(UserError, match="holds no checkpoint"):
        open_checkpoint(tmp_path)


def test_what_is_not_a_checkpoint_is_called_what_it_is(model: Path, tmp_path: Path) -> None:
    for path, what in (
        (model, "a Hugging Face folder"),
        (model / "config.json", "a file"),
        (tmp_path / "nowhere", "not there"),
    ):
        with pytest.raises(UserError, match=f"^checkpoint {path} is {what}"):
            open_checkpoint(path)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.path),))


def test_no_code_in_a_checkpoint_is_run(model: Path, tmp_path: Path) -> None:
    mc = imported(model, tmp_path / "mc")
    path = mc / "release" / ".metadata"
    index = pickle.loads(path.read_bytes())
    index.planner_data = {"x": Evil(tmp_path / "ran")}
    path.write_bytes(pickle.dumps(index))
    opened = open_checkpoint(mc)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match=r"posix.mkdir, which no checkpoint of Megatron does"):
        opened.check_trusted()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists()  # the pickle was a real one


def test_names_that_only_look_like_megatrons_are_not_trusted() -> None:
    names = {
        "torch.load",
        "builtins.eval",
        "torch.distributed.checkpoint.filesystem.os",
        "megatron.core.enums.ModelType",
    }
    names |= {"torch.FloatStorage", "torch.bfloat16", "argparse.Namespace"}
    assert untrusted(names) == ["builtins.eval", "torch.distributed.checkpoint.filesystem.os", "torch.load"]


def test_an_export_without_a_known_tokenizer_says_what_to_name(model: Path, tmp_path: Path) -> None:
    mc = imported(model, tmp_path / "mc")
    (mc / "meap_import.json").unlink()
    with pytest.raises(UserError, match="--data PREFIX"):
        plan_export(ExportSettings(checkpoint=mc))
    with pytest.raises(UserError, match="512 rows"):
        plan_export(ExportSettings(checkpoint=mc, tokenizer=write_tokenizer(tmp_path / "t", 600)))
    with pytest.raises(UserError, match="not one of llama"):
        plan_export(ExportSettings(checkpoint=mc, family="gpt2"))


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    count = []

    def full(*args: object, **kwargs: object) -> None:
        count.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="No space left on device"):
        imported(model, tmp_path / "mc")
    assert count and list(tmp_path.iterdir()) == []


def test_files_are_filled_up_to_the_limit() -> None:
    sizes = {"a": 4, "b": 4, "c": 9, "d": 1}
    assert list(plan_shards(sizes, limit=8).values()) == [["a", "b"], ["c"], ["d"]]
    assert list(plan_shards(sizes, limit=18)) == ["model.safetensors"]
    assert list(plan_shards(sizes, limit=8))[0] == "model-00001-of-00003.safetensors"


def test_a_header_that_lies_about_a_shape_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(UserError, match="does not need"):
        read_header(tmp_path / "x.safetensors")
