"""Weights in, the real trainer, weights out: transformers and Megatron agree at both ends."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from meap_megatron.cli.main import main
from tests.support.conversations import docstring_rows, write_alpaca, write_chat_tokenizer
from tests.support.corpus import library_texts, write_byte_tokenizer, write_dataset
from tests.support.hf_models import write_model
from tests.support.runs import TINY, losses, meap, train

pytestmark = pytest.mark.slow

TRAINING = """\
extends: {model}
run:
  device: cpu
  save: {save}
  save_interval: 100
  eval_interval: 100
  eval_iters: 0
  log_interval: 1
  dist_ckpt_optim_fully_reshardable: true
data:
  data_path: [{data}]
  split: 100,0,0
  seq_length: 64
  num_workers: 0
optimizer:
  train_iters: {steps}
  global_batch_size: 8
  micro_batch_size: 2
  lr: 2.0e-3
  min_lr: 2.0e-4
  lr_decay_style: cosine
  clip_grad: 1.0
objective:
  meap_mask_ratio: {ratio}
"""


def recipe(path: Path, **fields: Any) -> Path:
    path.write_text(TRAINING.format(**fields))
    return path


def convert(*words: str | Path) -> int:
    return main(["convert", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("convert")
    write_dataset(root, library_texts(2_000_000))
    return root


def tokens(folder: Path, count: int) -> torch.Tensor:
    from meap_megatron.indexed.pair import open_pair

    return torch.tensor(open_pair(folder / "data")[0][:count].astype("int64"))[None]


@pytest.mark.parametrize("name", ["llama3-tied", "qwen2", "qwen3-yarn", "smollm3"])  # Mistral's layers are Llama's
def test_every_family_goes_in_trains_in_3d_and_comes_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    source = write_byte_tokenizer(write_model(tmp_path / "hf", name))
    mc, save, out = tmp_path / "mc", tmp_path / "run", tmp_path / "out"
    layout = ["--tensor-model-parallel-size", "2", "--pipeline-model-parallel-size", "2"]
    assert convert("import", source, mc, "--add-mask-token", *layout) == 0
    assert "first choice equal at 100.00%" in capsys.readouterr().out
    data = folder / "data"
    if name == "qwen2":
        # transformers gives every model of this type <|endoftext|>, so that [MASK] is behind it.
        data = tmp_path / "data"
        meap("preprocess", "text", folder / "data.jsonl", "--tokenizer", mc / "tokenizer", "--output", data)
    path = recipe(tmp_path / "run.yaml", model="mc/model.yaml", save=save, data=data, steps=20, ratio=0.15)
    settings = ["nproc=4", "tensor_model_parallel_size=2", "pipeline_model_parallel_size=2"]
    meap("train", path, *settings, "sequence_parallel=true", timeout=600)
    loss = losses(save)
    assert len(loss) == 20 and loss[20] < loss[1] - 0.2
    assert convert("export", save, out) == 0
    said = capsys.readouterr().out
    assert "first choice equal at 100.00%" in said
    if name == "llama3-tied":
        # The first layers alone, of a checkpoint whose tensors two ranks cut.
        assert convert("verify", out, save, "--verify-layers", "1") == 0
        assert "(first 1 of 4 layers)" in capsys.readouterr().out
    # transformers 5 gives every qwen2 model Qwen's own tokenizer rules and <|endoftext|>; this tokenizer is none of Qwen's.
    assert ("warning: AutoTokenizer loads" in said) == (name == "qwen2")

    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = (PreTrainedTokenizerFast if name == "qwen2" else AutoTokenizer).from_pretrained(out)
    assert type(model).__name__.lower().startswith(name[:5])
    assert len(tokenizer) == 513 + (name == "qwen2")
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    text = tokenizer("import os", return_tensors="pt")
    new = model.generate(text["input_ids"], max_new_tokens=8, do_sample=False)
    assert new.shape[1] > text["input_ids"].shape[1]
    # Training on this text made the exported model better at it than the imported one.
    ids = tokens(folder, 64)
    before = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        assert model(ids, labels=ids).loss < before(ids, labels=ids).loss - 0.2


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    # As `meap demo` trains: from scratch, MEAP, on data of its own.
    train("tiny_cpu_meap.yaml", *TINY, f"data_path={folder / 'data'}", f"save={folder / 'run'}", "train_iters=20")
    assert convert("export", folder / "run", folder / "out") == 0
    return folder / "out"


def test_a_trained_model_loads_from_its_folder_and_never_says_mask(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    mask = tokenizer.mask_token_id
    assert mask == 512 and model.config.vocab_size == 513 and tokenizer.bos_token == "<s>"
    # The head is bent so that [MASK] would be the first choice nearly everywhere.
    with torch.no_grad():
        ids = torch.randint(2, 500, (200, 6), generator=torch.Generator().manual_seed(0))
        states = model.model(ids).last_hidden_state.reshape(-1, model.config.hidden_size)
        wanted = torch.ones(len(states), 1) * 100
        model.lm_head.weight[mask] = torch.linalg.lstsq(states, wanted).solution[:, 0]
    said = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert said.shape[0] == 200 and not (said == mask).any()
    model.generation_config.suppress_tokens = None
    assert (model.generate(ids, max_new_tokens=8, do_sample=False) == mask).any(1).sum() > 100


def test_the_record_says_how_documents_began(trained: Path) -> None:
    record = json.loads((trained / "meap_eval.json").read_text())
    expected = {
        "add_bos": True,
        "bos_from": "training data",
        "mask_token_id": 512,
        "mask_ratio": 0.15,
        "iteration": 20,
    }
    assert {name: record[name] for name in expected} == expected
    assert record["sequence_length"] == 64 and record["versions"]["torch"]


def test_a_model_that_memory_does_not_hold_is_verified_by_its_first_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from meap_megatron.checkpoint.convert import verifying

    source = write_byte_tokenizer(write_model(tmp_path / "hf", "mistral"))
    whole = 4 * 46_208 + 2 * 512 * 64  # parameters of the layers and of the tables
    monkeypatch.setattr(verifying, "free_memory", lambda: int(8 * 1.5 * whole * 0.8))
    assert convert("import", source, tmp_path / "mc", "--add-mask-token") == 0
    assert "(first 2 of 4 layers)" in capsys.readouterr().out
    # What differs among the layers that are run is found; what differs behind them cannot be.
    for layer, status in ((1, 1), (3, 0)):
        other = changed(source, tmp_path / f"hf{layer}", layer)
        assert convert("import", other, tmp_path / f"mc{layer}", "--skip-verification") == 0
        assert convert("verify", source, tmp_path / f"mc{layer}") == status
    assert "layer 2 differs first" in capsys.readouterr().err


def changed(source: Path, copy: Path, layer: int) -> Path:
    """Copy a model with another norm in one layer."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[f"model.layers.{layer}.input_layernorm.weight"].mul_(2)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_a_changed_weight_is_found_with_its_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    source = write_model(tmp_path / "hf", "mistral")
    assert convert("import", source, tmp_path / "mc", "--skip-verification") == 0
    tensors = load_file(source / "model.safetensors")
    # Key heads in another order: what a wrong converter does.
    key = "model.layers.2.self_attn.k_proj.weight"
    tensors[key] = tensors[key].roll(16, 0)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    assert convert("verify", source, tmp_path / "mc") == 1
    assert "layer 3 differs first" in capsys.readouterr().err
    config = json.loads((source / "config.json").read_text())
    del config["rope_parameters"]
    (source / "config.json").write_text(json.dumps({**config, "rope_theta": 640000.0}))
    assert convert("verify", source, tmp_path / "mc") == 2
    assert "rotary_base: 640000, 1000000" in capsys.readouterr().err


def test_fine_tuning_starts_at_the_loss_that_transformers_computes(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from meap_megatron.indexed.pair import open_pair

    rows = 8
    source = write_model(tmp_path / "hf", "llama3", vocab_size=1088)
    write_chat_tokenizer(source)
    write_alpaca(tmp_path / "alpaca.json", docstring_rows(rows))
    words = ["--tokenizer", source, "--template", "llama3", "--max-length", "225", "--over-long", "truncate"]
    meap("preprocess", "sft", tmp_path / "alpaca.json", *words, "--output", tmp_path / "data")
    assert convert("import", source, tmp_path / "mc", "--skip-verification") == 0
    path = recipe(
        tmp_path / "sft.yaml", model="mc/model.yaml", save=tmp_path / "run", data=tmp_path / "data", steps=1, ratio=0.0
    )
    # One step over all conversations, one row each.
    meap("train", path, "seq_length=224", f"global_batch_size={rows}", "meap_sft_no_pack=true", timeout=600)

    model = AutoModelForCausalLM.from_pretrained(source)
    ids, roles = open_pair(tmp_path / "data"), open_pair(tmp_path / "data.roles")
    assert len(ids) == rows
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for n in range(rows):
        row, kinds = torch.tensor(ids[n].astype("int64")), torch.tensor(roles[n].astype("int64"))
        with torch.no_grad():
            logits = model(row[None]).logits[0, :-1].double()
        trained = kinds[1:] > 0
        total += torch.nn.functional.cross_entropy(logits[trained], row[1:][trained], reduction="sum")
        count += int(trained.sum())
    assert count > 100
    assert losses(tmp_path / "run")[1] == pytest.approx(float(total / count), abs=1e-4)


def test_a_base_model_that_was_fine_tuned_stops_after_its_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = write_model(tmp_path / "hf", "llama2", vocab_size=1024, num_hidden_layers=2, eos_token_id=1)
    write_chat_tokenizer(source)  # EOS is <|end_of_text|>, and there is no chat template
    rows = ({"instruction": "Say it.", "input": "", "output": "All right, here it is."},) * 16
    write_alpaca(tmp_path / "alpaca.json", rows)
    words = ["--tokenizer", source, "--template", "chatml", "--output", tmp_path / "data"]
    meap("preprocess", "sft", tmp_path / "alpaca.json", *words)
    assert convert("import", source, tmp_path / "mc", "--add-mask-token", "--skip-verification") == 0
    path = recipe(
        tmp_path / "sft.yaml",
        model="mc/model.yaml",
        save=tmp_path / "run",
        data=tmp_path / "data",
        steps=40,
        ratio=0.0,
    )
    meap("train", path, "meap_sft=true", "lr=0.01", "min_lr=0.01", timeout=600)
    assert convert("export", tmp_path / "run", tmp_path / "out") == 0
    assert "warning" not in capsys.readouterr().err

    model, tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say it."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    new = model.generate(**asked, max_new_tokens=60, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(new) == "All right, here it is.<|im_end|>"
    assert model.generation_config.eos_token_id == [6, 1] and tokenizer.eos_token == "<|im_end|>"
    # The run itself answers as its export does.
    capsys.readouterr()
    assert main(["generate", str(tmp_path / "run"), "Say it.", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "All right, here it is.\n"
    # The evaluation takes the folder as it is, and asks through the template.
    from meap_megatron.evaluation import bos, identity, prompt_format

    record = bos.read_policy(tmp_path / "out")
    assert record and record["data_kind"] == "sft" and record["eos_token_id"] == 6
    assert record["tokenizer_fingerprint"] == identity.tokenizer_identity(tmp_path / "out")["corpus_fingerprint"]
    assert prompt_format.decide(tmp_path / "out", tokenizer, requested=None).apply
    # A moved import is said, because what it kept of the original is missing then.
    (tmp_path / "mc").rename(tmp_path / "moved")
    assert convert("export", tmp_path / "run", tmp_path / "again", "--skip-verification") == 0
    assert f"started from {tmp_path / 'mc'}, which is not there" in capsys.readouterr().err
    like = ["--like", tmp_path / "moved", "--skip-verification"]
    assert convert("export", tmp_path / "run", tmp_path / "third", *like) == 0
    assert (tmp_path / "third" / "config.json").read_text() == (tmp_path / "out" / "config.json").read_text()


def test_recipes_extend_what_an_import_wrote(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf", "mistral")
    assert convert("import", source, tmp_path / "mc", "--skip-verification") == 0
    path = recipe(tmp_path / "run.yaml", model="mc/model.yaml", save="x", data="y", steps=1, ratio=0.0)
    said = meap("train", path, "--dry-run").stdout
    assert "--rotary-base=1000000" in said and f"--pretrained-checkpoint={tmp_path / 'mc'}" in said
