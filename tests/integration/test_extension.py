"""A model trained at 512 tokens continues at 2,048 with a larger rotary base, and comes out with that base."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from meap_megatron.cli.main import main
from meap_megatron.launch.recipe import load
from tests.launch.test_recipes_readme import gpu_hours, rows
from tests.support.checkpoints import tensors
from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl
from tests.support.runs import RECIPES, losses, python, train

pytestmark = pytest.mark.slow

SHORT, LONG, BASE = 512, 2048, 640_000
MODEL = (
    "num_layers=2 hidden_size=64 ffn_hidden_size=176 split=100,0,0 eval_iters=0 micro_batch_size=1 save_interval=100"
).split()
LONGER = (
    f"seq_length={LONG} max_position_embeddings={LONG} rotary_base={BASE} lr=8e-5 min_lr=8e-5 lr_decay_style=constant "
    "lr_warmup_fraction=0.01"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, one of long documents, one of a single sample, and a model trained at 512 tokens."""
    root = tmp_path_factory.mktemp("extension")
    write_byte_tokenizer(root / "tokenizer")
    texts = library_texts(300_000)
    write_jsonl(root / "text.jsonl", texts)
    write_jsonl(root / "one.jsonl", (texts[0][:5_000],))
    words = ["--tokenizer", str(root / "tokenizer"), "--workers=1", "--encoder=tokenizers"]
    long = ["--length-upsample=60K", "--upsample-source=file", "--upsample-mixture=text=1"]
    for source, name, more in (("text", "text", []), ("one", "one", []), ("text", "long", long)):
        command = ["preprocess", "text", str(root / f"{source}.jsonl"), "-o", str(root / name), *words, *more]
        assert main(command) == 0
    settings = [f"seq_length={SHORT}", f"max_position_embeddings={SHORT}", "train_iters=6", "global_batch_size=4"]
    settings += ["init_method_std=0.15"]  # large, so that attention, and with it the positions, matters at once
    train("tiny_cpu_ntp.yaml", *MODEL, *settings, f"data_path={root / 'text'}", f"save={root / 'run'}")
    return root


def extend(folder: Path, name: str, *more: str, recipe: str = "tiny_cpu_ntp.yaml", **options: Any) -> Any:
    """Extend the model of `folder`."""
    paths = [f"pretrained_checkpoint={folder / 'run'}", f"save={folder / name}"]
    return train(recipe, *MODEL, *LONGER, *paths, *more, **options)


def test_the_first_step_has_the_loss_that_transformers_computes_with_the_new_base(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from meap_megatron.indexed.pair import open_pair

    extend(folder, "one_step", "train_iters=1", "global_batch_size=1", f"data_path={folder / 'one'}")
    assert (
        main(["convert", "export", str(folder / "run"), str(folder / "short"), "--skip-verification", "--rows=model"])
        == 0
    )
    ids = open_pair(folder / "one")[0]
    assert LONG < len(ids) <= 2 * LONG  # one sample, from the document's beginning
    sample = torch.tensor(ids[: LONG + 1].astype("int64"))[None]

    def loss(base: float) -> float:
        config = AutoConfig.from_pretrained(folder / "short")
        config.rope_parameters = {"rope_type": "default", "rope_theta": base}
        config.max_position_embeddings = LONG
        model = AutoModelForCausalLM.from_pretrained(folder / "short", config=config, dtype=torch.float32)
        with torch.no_grad():
            logits = model(sample[:, :-1]).logits[0]
        return float(torch.nn.functional.cross_entropy(logits.double(), sample[0, 1:]))

    trained = losses(folder / "one_step")[1]
    assert trained == pytest.approx(loss(BASE), abs=1e-5)
    assert abs(trained - loss(10_000)) > 1e-4


def test_an_extended_model_comes_out_with_its_base_and_agrees_beyond_the_old_length(folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from meap_megatron.checkpoint.convert.megatron_config import recipe_settings, spec_from_args
    from meap_megatron.checkpoint.convert.megatron_files import open_checkpoint
    from meap_megatron.checkpoint.convert.verifying import megatron_logits
    from meap_megatron.indexed.pair import open_pair

    more = ["train_iters=3", "global_batch_size=2", f"data_path={folder / 'long'}"]
    extend(folder, "long_run", *more, recipe="tiny_cpu_meap.yaml")
    log = (folder / "long_run" / "logs" / "rank-0.log").read_text()
    assert "rotary base of the built model 640,000; up to 2,048 positions, sequences of 2,048" in log
    # A fresh optimizer: three steps of its own, and a learning rate that starts over.
    assert sorted(losses(folder / "long_run")) == [1, 2, 3]
    steps = {value.item() for name, value in tensors(folder / "long_run", 3).items() if name.endswith(".step")}
    assert steps <= {3.0}
    assert losses(folder / "long_run", "learning_rate")[1] == pytest.approx(8e-5)

    out = folder / "hf"
    assert main(["convert", "export", str(folder / "long_run"), str(out), "--skip-verification"]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == BASE
    assert config["max_position_embeddings"] == LONG
    record = json.loads((out / "meap_eval.json").read_text())
    assert (record["rope_theta"], record["sequence_length"], record["mask_ratio"]) == (BASE, LONG, 0.15)

    ids = open_pair(folder / "text").tokens[:LONG].astype("int64").tolist()
    checkpoint = open_checkpoint(folder / "long_run")
    spec = spec_from_args(checkpoint.args, source="long_run")
    request = {
        "checkpoint": str(checkpoint.path),
        "settings": recipe_settings(spec),
        "layers": spec.num_layers,
        "sequences": [{"ids": ids, "positions": list(range(LONG)), "first": SHORT}],
    }
    with megatron_logits(request, program="meap_megatron.training.logits") as answer:
        loaded = AutoConfig.from_pretrained(out)
        assert loaded.rope_parameters["rope_theta"] == BASE
        old = AutoConfig.from_pretrained(out)
        old.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0}
        ours, wrong = (AutoModelForCausalLM.from_pretrained(out, config=c, dtype=torch.float32) for c in (loaded, old))
        with torch.no_grad():
            ours, wrong = (model(torch.tensor([ids])).logits[0, SHORT:] for model in (ours, wrong))
        theirs = answer()[0]["logits"][:, : ours.shape[1]]
    scale = float(theirs.abs().max())
    assert ours.shape[0] == LONG - SHORT
    assert float((ours - theirs).abs().max()) < 1e-4 * scale
    assert float((wrong - theirs).abs().max()) > 1e-3 * scale


def test_arguments_of_the_checkpoint_cannot_bring_the_old_base_back(folder: Path) -> None:
    more = ["train_iters=1", "global_batch_size=1", f"data_path={folder / 'one'}", "use_checkpoint_args=true"]
    done = extend(folder, "refused", *more, check=False)
    assert done.returncode == 2
    assert "rotary_base=640000 was asked for, but use_checkpoint_args takes the checkpoint's, 10000" in done.stderr
    assert not list((folder / "refused").glob("iter_*"))


def test_context_parallel_on_a_cpu_is_refused_with_the_reason(folder: Path) -> None:
    more = ["train_iters=1", "global_batch_size=1", f"data_path={folder / 'one'}", "nproc=2"]
    done = extend(folder, "cp", *more, "context_parallel_size=2", check=False)
    assert done.returncode == 2
    assert "context_parallel_size=2 needs GPUs" in done.stderr


def test_megatron_and_we_accept_the_recipes_on_1_to_512_gpus() -> None:
    script = """
import json
from tests.support.judge_recipes import arguments, parsed
name, found = "extend/llama_1.1b_64k_meap", {}
for gpus in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
    args = parsed(name, f"layout={gpus}", "transformer_impl=transformer_engine", gpus=gpus, rows=32064)
    arguments.check(args)
    found[gpus] = [args.tensor_model_parallel_size, args.context_parallel_size, args.data_parallel_size,
                   args.rotary_base, args.seq_length, args.max_position_embeddings, args.meap_mask_ratio]
print(json.dumps(found))
"""
    found = json.loads(python("-c", script).splitlines()[-1])
    # (tensor, context, data), as the README of the recipes says; 16 sequences per step.
    sizes = [
        (1, 1, 1),
        (1, 2, 1),
        (1, 4, 1),
        (1, 4, 2),
        (1, 4, 4),
        (1, 4, 8),
        (1, 4, 16),
        (2, 4, 16),
        (2, 8, 16),
        (2, 16, 16),
    ]
    assert [tuple(values[:3]) for values in found.values()] == sizes
    assert all(values[3:] == [640_000, 65_536, 65_536, 0.15] for values in found.values())


def test_the_arms_differ_in_the_objective_and_the_recipe_is_the_protocols() -> None:
    ntp, meap = (load(RECIPES / "extend" / f"llama_1.1b_64k_{arm}.yaml") for arm in ("ntp", "meap"))
    values = [{key: setting.value for key, setting in arm.settings.items()} for arm in (ntp, meap)]
    differing = {key for key in values[0] | values[1] if values[0].get(key) != values[1].get(key)}
    assert differing == {"meap_mask_ratio", "meap_mask_strategy", "pretrained_checkpoint", "save"}
    assert (ntp.get("meap_mask_ratio"), meap.get("meap_mask_ratio")) == (0.0, 0.15)
    control = load(RECIPES / "extend" / "llama_1.1b_64k_meap.yaml", ["meap_mask_ratio=0"])
    assert control.get("meap_mask_ratio") == 0 and control.get("pretrained_checkpoint") == "runs/llama_1.1b_meap"
    tokens = ntp.get("train_iters") * ntp.get("global_batch_size") * ntp.get("seq_length")
    assert (ntp.get("train_iters"), ntp.get("global_batch_size")) == (3815, 16) and 4.0e9 <= tokens < 4.001e9
    parameters, steps, said, hours = rows("extend")["extend/llama_1.1b_64k"]
    assert (int(steps), said) == (3815, f"{tokens / 1e9:.2f} B")
    products = int(parameters) - 32_064 * ntp.get("hidden_size")
    assert float(hours) == round(gpu_hours(ntp, parameters=products, context=ntp.get("seq_length"), tokens=tokens))
    given = [ntp.get(key) for key in ("lr", "min_lr", "lr_decay_style", "lr_warmup_fraction", "weight_decay")]
    assert given == [8e-5, 8e-5, "constant", 0.01, 0.05]
