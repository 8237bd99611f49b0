"""The examples of the page for users of other trainers run as they are written.

But for `use_cpu=True`, without which the trainers ask for a GPU.
"""

import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.support.runs import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/other_trainers.md").read_text(encoding="utf-8"), flags=re.S)
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=43, **sizes)).save_pretrained(tmp_path / "model")
    return tmp_path


def test_the_examples_for_transformers_and_trl_run_as_written(folder):
    pytest.importorskip("trl")
    from datasets import Dataset

    text = [{"input_ids": [0, *(3 + (7 * i + j) % 40 for j in range(30))]} for i in range(16)]
    talk = [
        {"prompt": "w1 w2", "completion": " " + " ".join(WORDS[(i + j) % 40] for j in range(60))} for i in range(16)
    ]
    names = {
        "MODEL": str(folder / "model"),
        "OUTPUT": str(folder / "out"),
        "TEXTS": text,
        "CONVERSATIONS": Dataset.from_list(talk),
    }
    for block in BLOCKS[:2]:
        exec(block.replace("report_to=[]", "report_to=[], use_cpu=True"), names)
        assert names["trainer"].state.global_step == 2
    assert names["tokenizer"].mask_token == "[MASK]"
    assert names["model"].get_input_embeddings().num_embeddings == 44
