"""A refusal reaches the user, whatever guards the code between."""

import json
import os
import pickle
import struct
import sys
from pathlib import Path

import pytest

from meap_megatron.checkpoint.convert import hf_files
from meap_megatron.cli.main import main
from meap_megatron.errors import RunError, UserError
from meap_megatron.evaluation.data_files import read_records
from meap_megatron.terminal import print_error


def test_a_guard_against_damaged_text_does_not_swallow_a_refusal():
    def number(text: str) -> float | None:
        try:
            if text == "1e999":
                raise UserError("1e999 is too large")
            return float(text)
        except (ValueError, OSError, RuntimeError):
            return None

    assert number("words") is None
    with pytest.raises(UserError, match="1e999 is too large"):
        number("1e999")


def test_a_refusal_inside_a_guard_keeps_its_own_words(tmp_path: Path):
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(struct.pack("<Q", 100) + b"{}")
    with pytest.raises(UserError, match="is truncated") as refused:
        hf_files.read_header(cut)
    assert "download the file again" not in str(refused.value)
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"question": "who"}) + "\n")
    with pytest.raises(UserError, match="1: a record needs question, answer; get the published file again$"):
        read_records(records, ("question", "answer"))


def test_one_text_for_logs_is_the_problem_and_its_fix():
    assert str(UserError("a is 1", fix="set b")) == "a is 1; set b"
    assert str(UserError("a is 1")) == "a is 1"
    assert str(RunError("2 lines:\n  x", fix="look")) == "2 lines:\n  x\nlook"


def test_a_terminal_gets_the_fix_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "meap: error: there is no verb 'trian'\n  fix: did you mean 'meap train'?\n"


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        (
            "generate m x --max-new-tokens 4",
            "unrecognized arguments: --max-new-tokens 4",
            "did you mean --max-tokens? ",
        ),
        ("generate m x --max-tokns=4", "unrecognized arguments: --max-tokns=4", "did you mean --max-tokens? "),
        ("generate m x --quite-else", "unrecognized arguments: --quite-else", ""),
        ("generate m x --seed a", "argument --seed: invalid int value: 'a'", ""),
        ("generate m x ", "unrecognized arguments: ", ""),
        ("generate", "the following arguments are required: MODEL", ""),
        ("train r.yaml --lr 3", "unrecognized arguments: --lr 3", "a setting is written lr=VALUE; "),
    ],
)
def test_an_option_that_a_verb_does_not_have_gets_the_nearest_one(
    capsys: pytest.CaptureFixture[str], words: str, problem: str, hint: str
):
    assert main(words.split(" ")) == 2
    verb = f"meap {words.split(' ')[0]}"
    said = f"meap: error: {verb}: {problem}\n  fix: {hint}`{verb} --help` lists what it takes\n"
    assert capsys.readouterr().err == said


def test_each_of_several_problems_keeps_its_own_fix():
    error = UserError("2 problems:", parts=[UserError("a is 1", fix="set b"), UserError("c is 2")])
    assert error.shown() == "2 problems:\n  1. a is 1\n     fix: set b\n  2. c is 2"
    assert str(error) == "2 problems:\n  1. a is 1; set b\n  2. c is 2"


@pytest.mark.parametrize("kind", [UserError, RunError])
def test_a_place_and_a_pipe_between_processes_keep_the_fix(kind: type[UserError | RunError]):
    error = kind("a is 1", fix="set b", parts=[kind("c is 2", fix="set d")])
    for kept in (error.at("file.yaml:3"), pickle.loads(pickle.dumps(error.at("file.yaml:3")))):
        assert type(kept) is kind
        assert kept.shown() == "file.yaml:3: a is 1\n  1. c is 2\n     fix: set d\n  fix: set b"
    assert error.rewritten(str.upper).shown() == "A IS 1\n  1. C IS 2\n     fix: SET D\n  fix: SET B"


def test_an_error_is_coloured_on_a_terminal_only_and_not_against_the_users_wish(monkeypatch: pytest.MonkeyPatch):
    def printed(stream: int) -> str:
        with monkeypatch.context() as patch, os.fdopen(os.dup(stream), "w") as stderr:
            patch.setattr(sys, "stderr", stderr)
            print_error(UserError("a is 1", fix="set b"))
        text = b""
        while text.count(b"\n") < 2:  # a terminal hands over what has arrived, which may be one line of two
            text += os.read(reading[stream], 1000)
        return text.decode().replace("\r\n", "\n")

    master, terminal = os.openpty()
    end, pipe = os.pipe()
    reading = {terminal: master, pipe: end}
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = "meap: error: a is 1\n  fix: set b\n"
    assert printed(terminal) == "meap: \033[1;31merror:\033[0m a is 1\n  \033[1;32mfix:\033[0m set b\n"
    assert printed(pipe) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(terminal) == plain
