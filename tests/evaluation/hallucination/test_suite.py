"""Suite `hallucination` on a real tiny model: same articles for both arms, lengths, judges, scores, resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.hallucination.summaries import (
    NEW_TOKENS,
    Articles,
    ask_for_summary,
    choose_template,
    fit,
    read_articles,
    stops,
)
from meap_megatron.evaluation.prompt_length import Measure, load_tokenizer
from tests.evaluation.fakes import evaluated, samples_of
from tests.evaluation.hallucination.judges import Stub, endpoint, says

SHORT = "Rain fell."
LONG = "The council met on Monday and spoke about the bridge. " * 60


@pytest.fixture
def articles(tmp_path: Path) -> Path:
    folder = tmp_path / "articles"
    folder.mkdir()
    for name, count in {"xsum": 4, "wikisum": 3}.items():
        records = [
            {
                "document": f"{name}: " + (LONG if number == 1 else SHORT) + f" {number}",
                "summary": f"reference {name} {number}",
            }
            for number in range(count)
        ]
        lines = [json.dumps(record) for record in [*records, {"document": " ", "summary": "empty"}]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def evaluate(tiny_model: Path, articles: Path, tmp_path: Path) -> Any:
    """Run the suite with a small summary, and return its results document."""

    def run(*options: str, out: str = "out", status: int = 0, data: Path | None = None) -> dict[str, Any]:
        named = {"model": tiny_model, "data": data or articles}
        return evaluated("hallucination", tmp_path / out, *options, status=status, **named)

    return run


@pytest.fixture(autouse=True)
def short_summaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meap_megatron.evaluation.hallucination.summaries.NEW_TOKENS", 8)


def by_reference(stub: Stub, body: dict[str, Any]) -> Any:
    """1 for the first articles, 0 for the second, no score for the third."""
    reference = body["messages"][0]["content"].rsplit("reference ", 1)[1]
    return says({"0": "Alike. Score: 1", "1": "Score: 0", "2": "I do not know"}.get(reference[-1], "Score: 1"))


def samples(tmp_path: Path, out: str = "out") -> list[dict[str, Any]]:
    return samples_of("hallucination", tmp_path / out)


def test_accuracy_standard_error_and_unparsed_answers_stand_in_the_results(
    evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(by_reference) as stub:
        content = evaluate("--judge", f"stub@{stub.url}")
    xsum, wikisum = (content["headline"]["judges"]["stub"][name] for name in ("xsum", "wikisum"))
    assert (xsum["mean"], xsum["n"], xsum["unparsed"]) == (0.5, 4, 1)
    assert xsum["stderr"] == pytest.approx(((0.5**2 * 4 / 3) / 4) ** 0.5)
    assert (wikisum["mean"], wikisum["n"], wikisum["unparsed"]) == (pytest.approx(1 / 3), 3, 1)
    assert content["requests"] == {"known": 0, "asked": 7, "asked_of_judges": {"stub": 7 + 2}}
    assert content["data"]["xsum"]["empty"] == 1
    assert content["not_run"] == ["multi_news"]
    said = capsys.readouterr()
    assert "no file in the data folder: multi_news" in said.err
    assert "accuracy[stub] 50.00" in said.out and "unparsed[stub] 25.00" in said.out
    first = samples(tmp_path)[0]
    assert first["answer_given"] in next(text for text in stub.texts() if text.endswith(first["reference"]))
    assert {"rouge1_f1", "rougeL_f1"} <= first["metrics"].keys()


def test_a_judge_that_dies_costs_neither_summaries_nor_judgements(
    evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meap_megatron.evaluation.hallucination.judge_http.HttpJudge._pause", lambda *_: 0.01)
    dead = {"after": 3}

    def reply(stub: Stub, body: dict[str, Any]) -> Any:
        return says("", 500) if len(stub.asked) > dead["after"] else by_reference(stub, body)

    with endpoint(reply) as stub:
        words = ["--judge", f"stub@{stub.url}", "--judge-concurrency", "1"]
        evaluate(*words, status=1)
        assert "status 500" in (said := capsys.readouterr().err) and "fix: continue with the same command" in said
        assert not (tmp_path / "out" / "hallucination.json").exists()
        dead["after"] = 10**6
        resumed = evaluate(*words)
        assert resumed["requests"]["asked"] == 0
        assert 0 < resumed["requests"]["asked_of_judges"]["stub"] == 9 - 3
        whole = evaluate(*words, out="whole")
        assert resumed["tasks"] == whole["tasks"]
        count = len(stub.asked)
        evaluate(*words)
        assert len(stub.asked) == count and "finished already" in capsys.readouterr().err


def test_two_judges_in_one_run_read_the_same_summaries(evaluate: Any) -> None:
    with endpoint(by_reference) as one, endpoint(lambda stub, body: says("Score: 1")) as other:
        content = evaluate("--judge", f"one@{one.url}", "--judge", f"other@{other.url}", "--limit", "2")
    assert content["headline"]["judges"]["other"]["xsum"]["mean"] == 1
    assert content["requests"]["asked"] == 4
    assert sorted(other.texts()) == sorted(set(one.texts()))


def test_a_local_model_judges_and_none_gives_rouge_only(evaluate: Any, tiny_model: Path, tmp_path: Path) -> None:
    judge = Path(shutil.copytree(tiny_model, tmp_path / "judge_model"))
    content = evaluate("--judge", str(judge), "--limit", "1")
    scores = content["headline"]["judges"]["judge_model"]["xsum"]
    assert (scores["mean"], scores["unparsed"]) == (0, 1)  # it recites something else
    assert content["settings"]["judges"][0]["fingerprint"] == content["model"]["fingerprint"]
    assert "sandwich" in samples(tmp_path)[0]["judgements"]["judge_model"]
    plain = evaluate("--judge", "none", "--limit", "1", out="plain")
    assert plain["headline"]["judges"] == {}
    assert plain["tasks"][0]["metrics"].keys() == {"rouge1_f1", "rougeL_f1"}


def test_the_key_is_in_no_file(evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret-4")
    with endpoint(by_reference) as stub:
        evaluate("--judge", f"stub@{stub.url}#JUDGE_KEY", "--limit", "1")
        assert stub.headers[0]["Authorization"] == "Bearer secret-4"
    written = [path for path in (tmp_path / "out").iterdir()]
    assert len(written) >= 3
    assert not [path for path in written if b"secret-4" in path.read_bytes()]


def test_what_cannot_be_used_is_refused_before_the_model_generates(
    evaluate: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEAP_JUDGE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (empty := tmp_path / "empty").mkdir()
    (broken := tmp_path / "broken").mkdir()
    (broken / "xsum.jsonl").write_text('{"document": "a", "summary": "b"}\n{"text": "a"}\n')
    for words, data, message in [
        ([], None, "hallucination needs a judge"),
        (["--judge", "m@https://judge.example/v1"], None, "needs an API key"),
        (["--judge", "none"], empty, "holds no articles\n  fix: put there one or more of xsum.jsonl"),
        (["--judge", "none"], broken, "xsum.jsonl:2: a record needs the texts document and summary"),
        (["--judge", "none", "--template", "lama"], None, "there is no template 'lama'"),
    ]:
        evaluate(*words, data=data, status=2)
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("hallucination*"))


def test_both_arms_get_the_same_articles_and_fewer_are_a_part_of_more() -> None:
    texts = [str(number) for number in range(300)]
    data = Articles(name="xsum", sha256="", documents=texts, summaries=texts, empty=0)
    drawn = data.draw(100, seed=0)
    assert len(set(drawn)) == 100
    assert data.draw(100, seed=0) == drawn
    assert data.draw(10, seed=0) == drawn[:10]
    assert data.draw(100, seed=1) != drawn


def test_an_article_is_cut_at_its_end_so_that_prompt_and_summary_fit(
    tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meap_megatron.evaluation.hallucination.summaries.NEW_TOKENS", NEW_TOKENS)
    assert NEW_TOKENS == 256
    measure = Measure(name="", tokenizer=load_tokenizer(str(tokenizer_folder)), limit=None)
    document = "é first " + "später ñandú " * 400
    frame = measure.count(ask_for_summary("", template="vicuna"))
    found = fit(document, template="vicuna", measure=measure, length=frame + 50 + 256)
    assert found.cut and found.text is not None
    assert found.tokens == measure.count(found.text) <= frame + 50
    assert found.tokens > frame + 45
    assert "article: é first später" in found.text and found.text.endswith(" ASSISTANT:")
    whole = fit("short", template="vicuna", measure=measure, length=frame + 50 + 256)
    assert not whole.cut and "article: short ASSISTANT:" in (whole.text or "")
    assert fit(document, template="vicuna", measure=measure, length=frame + 256).text is None


def test_an_article_with_braces_stays_as_it_is_in_every_template() -> None:
    for template in ("llama3", "vicuna", "chatml", "mistral", "alpaca", "none"):
        text = ask_for_summary("a {system} {query} {0}", template=template)
        assert "Summarize the following article: a {system} {query} {0}" in text
        assert text.count("{system}") == 1
    assert stops("chatml") == ["<|im_end|>"]
    assert choose_template(None, {}) == "vicuna"


def test_a_file_of_empty_records_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "xsum.jsonl"
    path.write_text('{"document": "", "summary": "b"}\n')
    with pytest.raises(UserError, match="all 1 records are empty"):
        read_articles("xsum", path)
