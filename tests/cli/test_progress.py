"""Verbs that copy much say how far they are, and nothing where it takes no time."""

from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.support.corpus import write_byte_tokenizer
from tests.support.hf_models import write_model


def run_all(folder: Path) -> None:
    write_byte_tokenizer(folder / "tokenizer")
    (folder / "text.txt").write_text("some text " * 50)
    prefixes = [str(folder / name) for name in ("one", "two")]
    for prefix in prefixes:
        words = ["preprocess", "text", str(folder / "text.txt"), "-t", str(folder / "tokenizer"), "-o", prefix]
        assert main([*words, "--workers", "1"]) == 0
    assert main(["merge", str(folder / "both"), *prefixes]) == 0
    write_model(folder / "model", "llama2", vocab_size=128, num_hidden_layers=2)
    assert main(["convert", "import", str(folder / "model"), str(folder / "there"), "--skip-verification"]) == 0
    assert main(["convert", "export", str(folder / "there"), str(folder / "back"), "--skip-verification"]) == 0


def test_merge_import_and_export_show_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("meap_megatron.corpus.progress.EVERY", 0.0)
    run_all(tmp_path)
    error = capsys.readouterr().err
    for verb in ("merge", "import", "export"):
        lines = [line for line in error.splitlines() if line.startswith(f"{verb}: ")]
        assert len(lines) > 1 and "100.0%" in lines[-1] and "ETA 0:00" in lines[-1], error


def test_what_takes_no_time_shows_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all(tmp_path)
    assert not [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("merge: ", "import: ", "export: "))
    ]
