"""Accents and bytes that are no text: what is typed is found, what is said can be printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_an_ascii_locale_prints_and_reads_accents(tmp_path: Path, locale: str) -> None:
    recipe = tmp_path / "modèle.yaml"
    recipe.write_text(
        "num_layers: 2\nhidden_size: 64\nnum_attention_heads: 4\nseq_length: 64\nlr: 0.1\ntrain_iters: 3\n"
    )
    environ = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-m",
        "meap_megatron.cli.main",
        "train",
        str(recipe),
        "data_path=données/é",
        "--dry-run",
    ]
    done = subprocess.run(command, capture_output=True, env=environ, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "données/é" in done.stdout.decode()


def test_a_path_that_is_not_utf8_is_escaped_in_a_message(tmp_path: Path) -> None:
    command = [sys.executable.encode(), b"-m", b"meap_megatron.cli.main", b"train", b"caf\xe9.yaml", b"save=caf\xe9"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("meap: error: cannot read recipe caf\\udce9.yaml")
