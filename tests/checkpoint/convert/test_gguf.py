"""GGUF files go in as the model that they were made from, or are refused by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from meap_megatron.checkpoint.convert.gguf_files import unpack
from meap_megatron.checkpoint.convert.hf_config import read_config, spec_from_config
from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from tests.support.corpus import write_byte_tokenizer
from tests.support.gguf_models import write_gguf
from tests.support.hf_models import YARN, write_model

TEXT = "def main(a, b=12345):\n\n    return  a + 'Größe' # 大小\t🎉 </s> it's"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def model(folder: Path, name: str, tokenizer: Path, **changes: Any) -> Path:
    write_model(folder, name, num_hidden_layers=2, **changes)
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return model(tmp_path_factory.mktemp("llama") / "hf", "llama2", tokenizer, intermediate_size=192)


@pytest.mark.parametrize(
    "name, kind, dtype",
    [
        ("llama3", "F32", "float32"),
        ("llama3-tied", "F16", "float16"),
        ("mistral", "F32", "float32"),
        ("qwen2", "BF16", "bfloat16"),
        ("qwen2-tied", "F32", "float32"),
        ("qwen3", "F32", "float32"),
        ("qwen3-yarn", "F32", "float32"),
        ("smollm3", "F32", "float32"),
    ],
)
def test_every_family_is_unpacked_to_the_bit(
    tmp_path: Path, tokenizer: Path, name: str, kind: str, dtype: str
) -> None:
    # llama.cpp has no factor of attention of its own.
    yarn = {key: value for key, value in YARN.items() if key != "attention_factor"}
    changes = {"rope_parameters": yarn} if name == "qwen3-yarn" else {}
    source = model(tmp_path / "hf", name, tokenizer, dtype=dtype, **changes)
    (tmp_path / "out").mkdir()
    line = unpack(write_gguf(tmp_path / "m.gguf", source, kind=kind), tmp_path / "out")
    assert line == f"m.gguf: {kind} unpacked to {dtype}"
    was, found = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert set(was) == set(found)
    assert all(found[key].dtype == was[key].dtype and torch.equal(found[key], was[key]) for key in was)
    specs = [spec_from_config(read_config(folder), source="x") for folder in (source, tmp_path / "out")]
    assert dataclasses.replace(specs[0], family=specs[1].family) == specs[1]
    assert specs[1].family == ("llama" if name == "mistral" else specs[0].family)


def test_the_tokenizer_gives_the_same_ids(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "out").mkdir()
    unpack(write_gguf(tmp_path / "m.gguf", llama), tmp_path / "out")
    ours, own = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path / "out", llama))
    assert ours.encode(TEXT).ids == own.encode(TEXT).ids and ours.encode(TEXT).ids[0] == 0
    assert ours.decode(ours.encode(TEXT).ids, skip_special_tokens=False) == "<s>" + TEXT
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["eos_token"] == "</s>"


def test_a_quantised_model_is_imported_with_its_logits_compared(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{{ messages }}"
    path = write_gguf(tmp_path / "m.Q8_0.gguf", llama, kind="Q8_0", **{"tokenizer.chat_template": template})
    assert main(["convert", "import", str(path), str(tmp_path / "mc"), "--skip-verification"]) == 0
    assert main(["convert", "verify", str(path), str(tmp_path / "mc")]) == 0  # as the import does
    said = capsys.readouterr()
    assert "m.Q8_0.gguf: Q8_0 unpacked to float32; the rounding of its quantisation stays in the weights" in said.err
    assert "first choice equal at 100.00%" in said.out
    assert json.loads((tmp_path / "mc" / "meap_import.json").read_text())["source"] == str(path)
    assert (tmp_path / "mc" / "hf" / "chat_template.jinja").read_text() == template
    assert [entry.name for entry in tmp_path.iterdir() if "gguf" in entry.name] == ["m.Q8_0.gguf"]  # no leftovers
    was = load_file(llama / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    assert main(["convert", "export", str(tmp_path / "mc"), str(tmp_path / "out"), "--skip-verification"]) == 0
    now = load_file(tmp_path / "out" / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
    assert 0 < (was - now).abs().max() < 0.01


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"general.architecture": "gemma3"}, "is of architecture 'gemma3'; from GGUF, llama, qwen2"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"split.count": 3}, "is one of 3 parts"),
        ({"llama.expert_count": 8}, "num_local_experts=8: mixtures of experts"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 4.0}, "rope_type 'longrope'"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.attn_factor": 2.0}, "has attn_factor=2.0, which the"),
        ({"llama.rope.dimension_count": 8}, "partial_rotary_factor=0.5: rotary positions must cover"),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale=0.5 is a field that the converter does not know"),
        ({"llama.block_count": 3}, "lacks blk.2."),
        ({"llama.block_count": 1}, r"holds blk.1.attn_k.weight \(9 such\)"),
        ({"llama.feed_forward_length": 177}, r"ffn_gate.weight has shape \[192, 64\], its metadata say \[177, 64\]"),
        ({"tokenizer.ggml.pre": "new"}, "splits text by the rule 'new'.*--tokenizer FOLDER"),
        ({"tokenizer.ggml.model": "t5"}, "its tokenizer is of kind 't5'"),
        ({"tokenizer.ggml.tokens": None}, "holds no tokenizer; give the model's own"),
    ],
)
def test_what_is_not_converted_is_refused_by_name(
    tmp_path: Path, llama: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", llama, **changes)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=message):
        unpack(path, tmp_path / "out")


def test_a_tokenizer_folder_replaces_that_of_the_file(tmp_path: Path, tokenizer: Path, llama: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", llama, **{"tokenizer.ggml.pre": "new"})
    (tmp_path / "out").mkdir()
    unpack(path, tmp_path / "out", tokenizer=tokenizer)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tokenizer / "tokenizer.json").read_bytes()


def test_a_cut_file_and_another_file_are_said(tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = write_gguf(tmp_path / "m.gguf", llama).read_bytes()
    for content in (whole[:-5000], whole[:300], b"not a model", b""):
        (tmp_path / "cut.gguf").write_bytes(content)
        assert main(["convert", "import", str(tmp_path / "cut.gguf"), str(tmp_path / "mc")]) == 2
        assert "cut.gguf cannot be read as GGUF" in capsys.readouterr().err
    assert not (tmp_path / "mc").exists()
    assert main(["convert", "import", str(tmp_path), str(tmp_path / "mc")]) == 2
    assert f"`meap convert import {tmp_path}/cut.gguf OUT` takes" in capsys.readouterr().err
