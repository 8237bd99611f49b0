"""Published files are read as they are; synthetic distractors never hold an answer; the prompt is the published one."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.data_files import data_folder
from meap_megatron.evaluation.retrieval import mdqa, metrics
from meap_megatron.evaluation.retrieval.distractors import nearest
from meap_megatron.evaluation.retrieval.mdqa import ORACLE
from tests.evaluation.fakes import Cheat, Silent, write_gz

TEN = [f"meap_mdqa_10_gold_at_{place}" for place in (0, 4, 9)]
PLACES = "Oslo Lima Cairo Quito Delhi Paris Rome Bern Kyiv Baku Doha Hanoi Seoul Tunis".split()


def passage(title: str, text: str, *, gold: bool) -> dict[str, Any]:
    return {"title": title, "text": text, "hasanswer": gold, "isgold": gold}


def oracle_records() -> list[dict[str, Any]]:
    return [
        {
            "question": f"where was the treaty number {number} signed",
            "answers": [place],
            "ctxs": [passage(f"Treaty {number}", f"Treaty number {number} was signed in {place}.", gold=True)],
        }
        for number, place in enumerate(PLACES)
    ]


@pytest.fixture
def oracle(tmp_path: Path) -> Path:
    write_gz(tmp_path / ORACLE, oracle_records())
    return tmp_path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    for place in (0, 4, 9):
        texts = [passage(f"Noise {n}", f"Nothing about it, part {n}.", gold=False) for n in range(9)]
        texts.insert(place, passage("Physics", "The first prize went to Röntgen.", gold=True))
        record = {"question": "who got the first prize", "answers": ["Röntgen"], "ctxs": texts}
        write_gz(tmp_path / "10_total_documents" / f"nq-open-10_total_documents_gold_at_{place}.jsonl.gz", [record])
    return tmp_path


def test_the_prompt_is_the_published_one() -> None:
    shown = [passage("first doc", "first text", gold=False), passage("second doc", "second text", gold=True)]
    assert mdqa.render("test question", shown) == (
        "Write a high-quality answer for the given question using only the provided search results (some of which "
        "might be irrelevant).\n\nDocument [1](Title: first doc) first text\nDocument [2](Title: second doc) second "
        "text\n\nQuestion: test question\nAnswer:"
    )


def test_a_model_that_copies_the_answer_scores_100_percent_at_every_place(score: Any, oracle: Path) -> None:
    found = score(Cheat(), ["meap_mdqa_10", "meap_nq_open_oracle"], data=str(oracle))
    assert [found[name]["best_subspan_em"] for name in [*TEN, "meap_nq_open_oracle", "meap_mdqa_10"]] == [1.0] * 5
    assert {sample["doc"]["source"] for sample in found["samples"][TEN[0]]} == {"synthetic distractors"}


def test_a_model_that_never_answers_scores_the_floor(score: Any, tmp_path: Path) -> None:
    records = oracle_records()
    records[3]["answers"] = ["A."]  # normalises to nothing, as one question of the published set
    write_gz(tmp_path / ORACLE, records)
    found = score(Silent(), ["meap_nq_open_oracle"], data=str(tmp_path))["meap_nq_open_oracle"]
    assert found["best_subspan_em"] == found["empty_answer"] == 1 / 14


def test_every_question_is_checked_for_an_answer_in_its_gold_document_and_counted_if_it_does_not_fit(
    score: Any, tmp_path: Path
) -> None:
    records = oracle_records()
    records[5]["answers"] = ["Vienna"]
    write_gz(tmp_path / ORACLE, records)
    for limit, unfit in ((10_000, 0), (120, 14)):
        found = score(Cheat(), ["meap_nq_open_oracle"], data=str(tmp_path), max_length=limit)["meap_nq_open_oracle"]
        assert (found["sample_len"], found["answer_in_document"], found["unfit"]) == (14, 13 / 14, unfit)


def test_published_files_come_before_synthetic_ones(score: Any, published: Path) -> None:
    write_gz(published / ORACLE, oracle_records())
    found = score(Cheat(), TEN, data=str(published))
    for place, name in zip((0, 4, 9), TEN, strict=True):
        (sample,) = found["samples"][name]
        assert sample["doc"]["source"] == "published"
        assert f"Document [{place + 1}](Title: Physics)" in sample["doc"]["prompt"]
        assert found[name]["best_subspan_em"] == 1.0


def test_synthetic_distractors_have_other_titles_and_no_answer(oracle: Path) -> None:
    records = oracle_records()
    records[1]["answers"] = ["Lima", "signed in Delhi"]
    records[2]["ctxs"][0]["title"] = records[1]["ctxs"][0]["title"] = "Treaty"
    made = list(
        mdqa.synthesise(write_gz(oracle / "other" / ORACLE, records), num_documents=10, gold_index=4, samples=3)
    )
    assert len(made) == 3
    for record, original in zip(made, records, strict=False):
        assert [context["isgold"] for context in record["ctxs"]] == [False] * 4 + [True] + [False] * 5
        assert record["ctxs"][4] == original["ctxs"][0]
        assert len({context["title"] for context in record["ctxs"]}) == 10
        for context in record["ctxs"][:4] + record["ctxs"][5:]:
            assert metrics.best_subspan_em(context["text"], record["answers"]) == 0


def test_a_short_answer_must_be_a_word_of_its_own() -> None:
    assert not mdqa.holds("supermans cape", "s")
    assert mdqa.holds("the letter s stands", "s")
    assert mdqa.holds("supermans cape", "man")


def test_the_order_of_distractors_is_the_same_wherever_the_gold_stands(oracle: Path) -> None:
    first, last = (
        next(mdqa.synthesise(oracle / ORACLE, num_documents=10, gold_index=place, samples=1))["ctxs"]
        for place in (0, 9)
    )
    assert first[1:] == last[:9]


def test_the_nearest_passage_shares_the_rare_words() -> None:
    passages = ["red car in town", "blue car in town", "the harbour of bergen at night", "town hall"]
    ((first, *_),) = nearest(["Where is the Harbour of Bergen?"], passages)
    assert first == 2


def test_prompts_above_a_limit_are_counted_and_not_scored(score: Any, oracle: Path) -> None:
    found = score(Cheat(), TEN[:1], data=str(oracle), max_prompt_length=300)[TEN[0]]
    assert (found["unfit"], found["sample_len"]) == (14, 14)
    assert "best_subspan_em" not in found
    assert score(Cheat(), TEN[:1], data=str(oracle), max_length=500)[TEN[0]]["unfit"] == 14


def test_samples_takes_the_first_questions(score: Any, oracle: Path) -> None:
    assert score(Cheat(), TEN[:1], data=str(oracle), samples=3)[TEN[0]]["sample_len"] == 3


def test_wrong_data_says_what_is_wrong(tmp_path: Path) -> None:
    def load(folder: Path | None) -> Any:
        return mdqa.load(folder, num_documents=10, gold_index=4, samples=None)

    with pytest.raises(UserError, match="reads nq-open-10_total_documents_gold_at_4.jsonl.gz; give the folder"):
        load(None)
    with pytest.raises(UserError, match=f"holds neither nq-open-10.* nor {ORACLE}"):
        load(tmp_path)
    write_gz(tmp_path / ORACLE, oracle_records()[:5])
    with pytest.raises(UserError, match="question 1 has only 4 usable distractors, 9 are needed"):
        load(tmp_path)
    write_gz(tmp_path / "a" / ORACLE, [*oracle_records()[:2], {"question": "q"}])
    with pytest.raises(UserError, match=r"oracle.jsonl.gz:3: a record needs question, answers, ctxs"):
        load(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ORACLE).write_bytes(gzip.compress(b'{"question": "q"')[:-9])
    with pytest.raises(UserError, match=r"oracle.jsonl.gz:1: cannot be read"):
        load(tmp_path / "b")
    with pytest.raises(UserError, match="is not a folder"):
        data_folder(tmp_path / "missing")
