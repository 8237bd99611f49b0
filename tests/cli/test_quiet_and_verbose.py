"""--quiet prints errors only and --verbose what the libraries say, with every verb that may run long."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import LONG, VERBS, main, parser_of
from tests.support.runs import ROOT


@pytest.mark.parametrize("verb", VERBS)
def test_the_switches_are_those_of_every_long_verb_and_of_no_other(verb: str) -> None:
    _, parser = parser_of(verb)
    declared = {option: action.help for action in parser._actions for option in action.option_strings}
    found = {name: declared.get(name) for name in ("-q", "--quiet", "-v", "--verbose")}
    _, train = parser_of("train")
    expected = {option: action.help for action in train._actions for option in action.option_strings}
    assert found == {name: expected[name] if verb in LONG else None for name in found}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "t.txt").write_text("one two three\nfour five six\n" * 50)
    return ["tokenizer", "train", str(tmp_path / "t.txt"), "--vocab-size", "300", "--output", str(tmp_path / "tok")]


def test_quiet_does_the_work_and_says_nothing(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-q"]) == 0
    assert Path(words[-1], "tokenizer.json").is_file()
    assert capfd.readouterr() == ("", "")
    assert "MEAP_OUTPUT" not in os.environ


def test_quiet_still_says_what_is_wrong(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "pieces" in capfd.readouterr().out
    assert main([*words, "--quiet"]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("meap: error: ") and said.err.count("\n") == 2


def test_an_error_inside_a_quiet_run_is_heard(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from meap_megatron.errors import UserError
    from meap_megatron.terminal import muted, print_error

    monkeypatch.setenv("MEAP_OUTPUT", "quiet")
    with muted():
        print("progress")
        print("warning", file=sys.stderr)
        print_error(UserError("a is 1", fix="set b"))
    assert capfd.readouterr() == ("", "meap: error: a is 1\n  fix: set b\n")


def test_json_is_printed_although_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "iter_0000001").mkdir()
    main(["checkpoint", "verify", str(tmp_path), "--json", "-q"])
    assert json.loads(capfd.readouterr().out)["folder"] == str(tmp_path)


def test_what_was_asked_for_is_printed_although_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "examples/recipes/tiny_cpu_meap.yaml")
    words = ["train", recipe, "data_path=null", "mock_data=true", "vocab_size=100", "save=runs/a", "--dry-run"]
    assert main([*words, "-q"]) == 0
    assert "--mock-data" in capfd.readouterr().out


def test_the_log_of_a_quiet_rank_is_whole_and_its_screen_empty(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from meap_megatron.terminal import muted\n"
        "from meap_megatron.training.pretrain import output_to\n"
        "with muted(), output_to(Path(sys.argv[1])) as screen:\n"
        "    print('of Megatron'); print('step 1', file=screen)\n"
    )
    for level, screen in (("quiet", ""), ("verbose", "step 1\n")):
        log = tmp_path / f"{level}.log"
        command = [sys.executable, "-c", code, str(log)]
        done = subprocess.run(command, env=os.environ | {"MEAP_OUTPUT": level}, capture_output=True, text=True)
        assert (done.stdout, done.stderr, log.read_text()) == (screen, "", "of Megatron\n")
