"""A real chat model goes in and out, and answers when it is asked as it was trained to be."""

import json
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.support.real_model import smollm2

pytestmark = pytest.mark.slow


def test_a_real_chat_model_is_converted_and_finds_the_needle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = smollm2(tmp_path)
    assert (
        main(["convert", "import", str(model), str(tmp_path / "mc"), "--add-mask-token", "--verify-layers", "2"]) == 0
    )
    assert "(first 2 of 30 layers)" in (said := capsys.readouterr().out) and "first choice equal at 100.00%" in said
    assert main(["convert", "export", str(tmp_path / "mc"), str(tmp_path / "out"), "--skip-verification"]) == 0
    out = tmp_path / "out"
    assert (out / "chat_template.jinja").read_text() == (model / "chat_template.jinja").read_text()
    pytest.importorskip("needlehaystack")
    words = ["--lengths", "512", "--depths", "50", "--variants", "1", "--device", "cpu"]
    assert main(["evaluate", "needle", "--model", str(out), "--out", str(tmp_path / "scores"), *words]) == 0
    content = json.loads((tmp_path / "scores" / "needle.json").read_text())
    assert content["chat_template"]["applied"] and content["bos"]["source"] == "chat template"
    assert content["tasks"][0]["metrics"]["strict_hit"]["mean"] == 1.0
