"""No answer is asked for twice, none is lost but the one in flight, and none is taken from another model."""

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from meap_megatron.errors import UserError
from meap_megatron.evaluation.response_cache import Ledger, RecordingLM
from tests.evaluation.fakes import Fake

IDENTITY = {"model": "abc", "add_bos": False}


class Dying(Fake):
    """Answers with the prompt's length; the power fails at one prompt."""

    def __init__(self, fatal: str = "") -> None:
        super().__init__()
        self.fatal, self.heard = fatal, list[str]()

    def reply(self, document: dict[str, Any], prompt: str) -> str:
        if prompt == self.fatal:
            raise KeyboardInterrupt
        self.heard.append(prompt)
        return str(len(prompt))


def requests(*prompts: str, fits: bool = True) -> list[Instance]:
    return [
        Instance("generate_until", {"fits": fits}, (prompt, {"until": []}), 0, ("task", number, 1))
        for number, prompt in enumerate(prompts)
    ]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, prompts = tmp_path / "x.responses.jsonl", ("a", "bb", "ccc", "dddd")
    first = Dying("ccc")
    with pytest.raises(KeyboardInterrupt):
        RecordingLM(first, Ledger(path, identity=IDENTITY)).generate_until(requests(*prompts))
    second = Dying()
    ledger = Ledger(path, identity=IDENTITY)
    assert RecordingLM(second, ledger).generate_until(requests(*prompts)) == ["1", "2", "3", "4"]
    ledger.close()
    assert first.heard == ["a", "bb"]
    assert second.heard == ["ccc", "dddd"]
    assert len(path.read_text().splitlines()) == 1 + 4


def test_progress_is_one_line_of_ours_instead_of_the_harness_bars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Barred(Dying):
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            assert disable_tqdm, "the harness draws its own bar"
            return super().generate_until(requests, disable_tqdm)

    RecordingLM(Barred(), Ledger(tmp_path / "x", identity=IDENTITY)).generate_until(requests("a", "bb"))
    RecordingLM(Barred(), Ledger(tmp_path / "x", identity=IDENTITY)).generate_until(requests("a", "bb", "ccc"))
    said = capsys.readouterr().err.splitlines()
    assert said == ["evaluate: 2 of 2 answers  ETA 0:00", "evaluate: 1 of 1 answers  ETA 0:00"]


def test_on_a_terminal_progress_is_there_before_the_first_answer_and_tells_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", said := Terminal())
    RecordingLM(Dying(), Ledger(tmp_path / "x", identity=IDENTITY)).generate_until(requests("a", "bb"))
    shown = said.getvalue()
    assert shown.startswith("\revaluate: 0 of 2 answers\x1b[K\r")
    assert shown.endswith("\revaluate: 2 of 2 answers  ETA 0:00\x1b[K\n")
    assert shown.count("\n") == 1


def test_a_model_that_does_not_call_the_hook_is_asked_in_portions_that_are_recorded(tmp_path: Path) -> None:
    class Served(Dying):
        portion = 2

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [self.reply(request.doc, request.args[0]) for request in requests]

    path, prompts = tmp_path / "x.jsonl", ("a", "bb", "ccc", "dddd")
    with pytest.raises(KeyboardInterrupt):
        RecordingLM(Served("dddd"), Ledger(path, identity=IDENTITY)).generate_until(requests(*prompts))
    again = Served()
    assert RecordingLM(again, Ledger(path, identity=IDENTITY)).generate_until(requests(*prompts))[0] == "1"
    assert again.heard == ["ccc", "dddd"]


def test_a_line_cut_by_the_kill_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "x.responses.jsonl"
    RecordingLM(Dying(), Ledger(path, identity=IDENTITY)).generate_until(requests("a", "bb"))
    path.write_bytes(path.read_bytes()[:-7])
    again = Dying()
    ledger = Ledger(path, identity=IDENTITY)
    assert RecordingLM(again, ledger).generate_until(requests("a", "bb")) == ["1", "2"]
    ledger.close()
    assert again.heard == ["bb"]
    assert Ledger(path, identity=IDENTITY).answers.keys() == ledger.answers.keys()


def test_the_same_request_is_asked_once_and_one_that_does_not_fit_never(tmp_path: Path) -> None:
    model = Dying()
    recording = RecordingLM(model, Ledger(tmp_path / "x", identity=IDENTITY))
    assert recording.generate_until(requests("a", "a")) == ["1", "1"]
    assert recording.generate_until(requests("long", fits=False)) == [""]
    assert model.heard == ["a"]
    assert recording.ledger.requests() == {"known": 0, "asked": 1}


def test_answers_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.responses.jsonl"
    Ledger(path, identity=IDENTITY).close()
    with pytest.raises(UserError, match="holds the answers of another model.*--overwrite"):
        Ledger(path, identity={**IDENTITY, "model": "xyz"})
    path.write_text(path.read_text() + '{"key": 1}\n')
    with pytest.raises(UserError, match=r"x.responses.jsonl:2: not an answer"):
        Ledger(path, identity=IDENTITY)


def test_an_infinite_likelihood_is_valid_json_and_comes_back(tmp_path: Path) -> None:
    import json

    class Certain(Dying):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            self.heard.append("asked")
            return [(float("-inf"), False)] * len(requests)

    path, asked = tmp_path / "x.jsonl", [Instance("loglikelihood", {}, ("a", "b"), 0, ("task", 0, 1))]
    for model in (Certain(), again := Certain()):
        ledger = Ledger(path, identity=IDENTITY)
        assert RecordingLM(model, ledger).loglikelihood(asked) == [(float("-inf"), False)]
        ledger.close()
    assert again.heard == []
    for line in path.read_text().split("\n")[:-1]:
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
