"""The README's way from a Hugging Face folder to a chat, as it is written there."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import BLOCK
from tests.support.conversations import docstring_rows, write_chat_tokenizer, write_rows
from tests.support.hf_models import write_model
from tests.support.runs import ROOT, meap, records

pytestmark = pytest.mark.slow


def test_a_model_and_conversations_become_a_chat_in_four_commands(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(": four commands\n")[1]
    imported, preprocess, train, chat = [shlex.split(line)[1:] for line in BLOCK.search(section)["body"].splitlines()]
    assert [words[0] for words in (imported, preprocess, train, chat)] == ["convert", "preprocess", "train", "chat"]
    model = write_model(
        tmp_path / imported[2], "llama3", vocab_size=1024, num_hidden_layers=1, max_position_embeddings=256
    )
    write_chat_tokenizer(model)
    short = [row for row in docstring_rows(400) if len(row["output"]) < 300][:12]
    turns = [[("user", row["instruction"]), ("assistant", row["output"])] for row in short]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    write_rows(tmp_path / "conversations.jsonl", rows)

    said = meap(*imported, cwd=tmp_path).stdout
    assert "meap train checkpoints/llama/sft_meap.yaml data_path=data/mine" in said
    meap(*preprocess, cwd=tmp_path)
    meap(*train, cwd=tmp_path)
    steps = records(tmp_path / "runs/chats/metrics.jsonl", "step")
    assert steps and all(step["lm_loss"] for step in steps)
    answered = subprocess.run(
        [sys.executable, "-m", "meap_megatron.cli.main", *chat],
        input="Explain a list.\n/quit\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.strip() and "[MASK]" not in answered.stdout
