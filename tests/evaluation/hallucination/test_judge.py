"""The judge: its question, its score, and an endpoint that limits, fails, stalls, lies and dies."""

import threading
import time
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import RunError, UserError
from meap_megatron.evaluation.hallucination.judge import JudgeSpec, judge_all, parse, question, read_spec, read_specs
from meap_megatron.evaluation.hallucination.judge_http import HttpJudge, retry_after
from meap_megatron.evaluation.response_cache import Ledger
from tests.evaluation.hallucination.judges import Stub, endpoint, says

JUDGE = {"name": "stub"}


def ask(stub: Stub, text: str = "a question", **options: Any) -> str:
    judge = HttpJudge(stub.url, model="stub", first_pause=0.01, **options)
    return judge.ask(text, threading.Event())


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("They agree.\nScore: 1", 1),
        ("Score: 1 would be for likeness, but this is not. Score: 0", 0),
        ("**Score:** 1", 1),
        ("score:0.", 0),
        ("Score: 10", None),
        ("Score: 0.5", None),
        ("Score: xx", None),
        ("I cannot judge this.", None),
        ("", None),
    ],
)
def test_the_last_score_of_an_answer_counts(answer: str, score: int | None) -> None:
    assert parse(answer) == score


def test_the_question_holds_both_texts_under_the_names_of_the_paper_and_asks_for_the_format() -> None:
    text = question("a {summary}", "the reference")
    assert text.endswith('"model output": a {summary}\n\n"predicted label": the reference')
    assert "Score: xx" in text


def test_a_request_is_greedy_and_carries_the_key_in_its_header_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAP_JUDGE_API_KEY", "secret-1")
    with endpoint(lambda stub, body: says("Score: 1")) as stub:
        assert ask(stub) == "Score: 1"
    (body,), (headers,) = stub.asked, stub.headers
    assert (body["temperature"], body["model"], headers["path"]) == (0, "stub", "/v1/chat/completions")
    assert headers["Authorization"] == "Bearer secret-1"
    assert "secret-1" not in str(body)


def test_rate_limits_failures_broken_connections_and_malformed_answers_are_tried_again() -> None:
    troubles = [
        says("busy", 429),
        says("down", 503),
        (200, b"<html>", {}),
        (200, b'{"choices": []}', {}),
        None,
        says("Score: 0"),
    ]
    with endpoint(lambda stub, body: troubles[len(stub.asked) - 1]) as stub:
        assert ask(stub) == "Score: 0"
        assert len(stub.asked) == len(troubles)


def test_an_endpoint_that_stalls_is_given_up_after_the_timeout_and_asked_again() -> None:
    done = threading.Event()

    def reply(stub: Stub, body: dict[str, Any]) -> Any:
        if len(stub.asked) == 1:
            done.wait(60)
        return says("Score: 1")

    with endpoint(reply) as stub:
        assert ask(stub, timeout=1.0) == "Score: 1"
        assert len(stub.asked) >= 2
        done.set()


def test_retry_after_is_waited_for_in_seconds_and_as_a_date() -> None:
    from datetime import UTC, datetime, timedelta

    with endpoint(lambda stub, body: says("1", 429, Retry_After="0.6") if len(stub.asked) == 1 else says("1")) as stub:
        began = time.monotonic()
        ask(stub)
        assert time.monotonic() - began >= 0.6
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 25 < (retry_after(format_datetime(later, usegmt=True)) or 0) <= 30
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is retry_after(None) is None


@pytest.mark.parametrize(("status", "advice"), [(401, "check the API key"), (404, "model name"), (400, "--judge")])
def test_a_refusal_is_final_and_never_shows_the_key(status: int, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-2")
    with (
        endpoint(lambda stub, body: (status, b"bad key secret-2 was given", {})) as stub,
        pytest.raises(UserError, match=advice) as refused,
    ):
        ask(stub)
    assert len(stub.asked) == 1
    assert f"status {status}" in str(refused.value) and "bad key ***" in str(refused.value)
    assert "secret-2" not in str(refused.value)


def test_a_redirect_is_refused_so_that_the_key_stays_with_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAP_JUDGE_API_KEY", "secret-3")
    with endpoint(lambda stub, body: says("Score: 1")) as other:
        target = f"{other.url}/chat/completions"
        with (
            endpoint(lambda stub, body: (302, b"", {"Location": target})) as stub,
            pytest.raises(UserError, match="redirects are not followed"),
        ):
            ask(stub)
    assert other.asked == []


def test_an_endpoint_that_is_down_says_so_and_that_nothing_is_lost() -> None:
    with endpoint(lambda stub, body: says("")) as stub:
        pass
    with pytest.raises(RunError, match=r"gives no answer after 3 tries: .*refused.*; continue with the same command"):
        ask(stub, tries=3)


def test_a_far_endpoint_without_a_key_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEAP_JUDGE_API_KEY", "OPENAI_API_KEY", "MINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="MEAP_JUDGE_API_KEY or OPENAI_API_KEY"):
        HttpJudge("https://judge.example/v1", model="m")
    with pytest.raises(UserError, match="environment variable MINE"):
        HttpJudge("http://127.0.0.1:1/v1", model="m", key_variable="MINE")


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("secret\n5", "secret\u20145"):
        monkeypatch.setenv("MEAP_JUDGE_API_KEY", key)
        with pytest.raises(UserError, match="a header cannot hold") as refused:
            HttpJudge("https://judge.example/v1", model="m")
        assert "secret" not in str(refused.value)


def test_a_far_endpoint_is_asked_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAP_JUDGE_API_KEY", "secret-6")
    with endpoint(lambda stub, body: says("Score: 1")) as stub:
        monkeypatch.setenv("http_proxy", stub.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        judge = HttpJudge("http://judge.example/v1", model="m")
        assert judge.ask("a question", threading.Event()) == "Score: 1"
        assert stub.headers[0]["path"] == "http://judge.example/v1/chat/completions"
        monkeypatch.setenv("http_proxy", "socks9://127.0.0.1:1")
        with pytest.raises(UserError, match="a proxy of the environment cannot be used"):
            HttpJudge("http://judge.example/v1", model="m")


def test_judges_are_named_by_model_and_address_or_by_folder(tmp_path: Path) -> None:
    spec = read_spec("org/model@https://host.example/v1/#KEY")
    assert spec == JudgeSpec(name="org/model", url="https://host.example/v1", key_variable="KEY")
    assert "KEY" not in str(spec.identity())
    assert read_spec(str(tmp_path)).folder == tmp_path
    assert read_specs(["none"]) == []
    for words, message in {
        "gpt-4o": "neither MODEL@URL",
        "m@https://user:pw@host/v1": "password",
        "m@http://": "not an address",
        "m@http://host:port/v1": "not an address",
        "m@http://[::1/v1": "not an address",
    }.items():
        with pytest.raises(UserError, match=message) as refused:
            read_specs([words])
        assert "pw" not in str(refused.value).split("password")[0]
    with pytest.raises(UserError, match="needs a judge"):
        read_specs(None)
    with pytest.raises(UserError, match="two judges are called m"):
        read_specs(["m@https://a.example", "m@https://b.example"])


@pytest.fixture
def judge(tmp_path: Path) -> Any:
    """Judge texts by a stub, with a ledger that stays from call to call."""

    def run(stub: Stub, texts: list[str], *, tries: int = 2, concurrency: int = 1) -> Any:
        ledger = Ledger(tmp_path / "responses.jsonl", identity={"model": "m"})
        try:
            return judge_all(
                texts,
                judge=JUDGE,
                open_judge=lambda: HttpJudge(
                    stub.url, model="stub", first_pause=0.01, tries=tries, concurrency=concurrency
                ),
                ledger=ledger,
            )
        finally:
            ledger.close()

    return run


def test_an_answer_without_score_is_asked_for_once_more_then_counted(judge: Any) -> None:
    def reply(stub: Stub, body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        second = stub.texts().count(text) == 2
        return says({"never": "hm", "late": "Score: 1" if second else "hm", "null": None}.get(text, "Score: 1"))

    with endpoint(reply) as stub:
        found, asked = judge(stub, ["good", "never", "late", "null"])
        assert [judgement.score for judgement in found] == [1, None, 1, None]
        assert asked == len(stub.asked) == 4 + 3
        assert judge(stub, ["good", "never", "late", "null"]) == (found, 0)
        assert len(stub.asked) == 7


def test_a_run_that_died_in_the_middle_asks_only_what_is_missing(judge: Any) -> None:
    texts = [f"text {number}" for number in range(8)]
    dead = {"from": 3}

    def reply(stub: Stub, body: dict[str, Any]) -> Any:
        return None if len(stub.asked) > dead["from"] else says("Score: 1")

    with endpoint(reply) as stub:
        with pytest.raises(RunError):
            judge(stub, texts)
        first = stub.texts()[:3]
        dead["from"] = 1000
        stub.asked.clear()
        found, asked = judge(stub, texts)
        assert [judgement.score for judgement in found] == [1] * 8
        assert asked == 5
        assert sorted(stub.texts()) == sorted(set(texts) - set(first))


def test_an_interrupt_keeps_the_answers_that_were_under_way(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import meap_megatron.evaluation.hallucination.judge as module

    gate = threading.Event()

    def reply(stub: Stub, body: dict[str, Any]) -> Any:
        if "slow" in body["messages"][0]["content"]:
            gate.wait(20)
        return says("Score: 1")

    def interrupted(running: Any) -> Any:
        """Deliver the first answer, then Ctrl-C, while a second question is under way."""
        yield next(iter(running))
        threading.Timer(0.2, gate.set).start()
        raise KeyboardInterrupt

    with endpoint(reply) as stub:
        with monkeypatch.context() as patch:
            patch.setattr(module, "as_completed", interrupted)
            with pytest.raises(KeyboardInterrupt):
                judge(stub, ["quick", "slow 1", "slow 2", "rest 1", "rest 2"], concurrency=3)
        before = len(stub.asked)
        found, asked = judge(stub, ["quick", "slow 1", "slow 2", "rest 1", "rest 2"])
        assert [judgement.score for judgement in found] == [1] * 5
        assert asked == 5 - before < 3


def test_no_more_questions_are_under_way_than_allowed_and_equal_ones_are_asked_once(judge: Any) -> None:
    def reply(stub: Stub, body: dict[str, Any]) -> Any:
        time.sleep(0.05)
        return says("Score: 0")

    with endpoint(reply) as stub:
        found, asked = judge(stub, [f"t{number % 6}" for number in range(12)], concurrency=3)
        assert (len(found), asked) == (12, 6)
        assert 1 < stub.most_under_way <= 3
