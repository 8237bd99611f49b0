"""What `meap show` says of rows that truncation cut."""

from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from meap_megatron.corpus.sft.preprocess import preprocess_sft
from tests.corpus.sft.sft_samples import alpaca, config
from tests.support.conversations import write_rows


@pytest.fixture
def prefix(tmp_path: Path, chat_words: Path) -> Path:
    """A row of 14 tokens of a prompt and two of sixty tokens of an answer."""
    source = write_rows(tmp_path / "in.jsonl", [alpaca("q", "a b " * 30)])
    preprocess_sft(config(source, tmp_path / "out", chat_words, system="be", max_length=16))
    return tmp_path / "out"


def test_a_cut_answer_is_named_and_trained(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["show", str(prefix), "--index", "0", "--start", "14", "--rows", "0"]) == 0
    said = capsys.readouterr().out
    assert "16 tokens, 2 of them trained" in said
    assert [" ".join(line.split()) for line in said.splitlines()[4:6]] == [
        "14 a 14 answer trained",
        "15 b 15 answer (cut) trained",
    ]


def test_the_summary_counts_answers_before_truncation(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["show", str(prefix)]) == 0
    said = capsys.readouterr().out
    assert "2 tokens are trained, 12.5% of all" in said
    assert "answers  (before truncation)" in said
    assert "51 to 100             1  ####" in said
