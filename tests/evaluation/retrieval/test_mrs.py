"""NeedleBench v1's places, spacing, repeats and score; generated chains need every link."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_length import load_measure
from meap_megatron.evaluation.retrieval import kinship, mrs
from tests.evaluation.fakes import Cheat, Fake, Growing, Silent

GRID: dict[str, Any] = {"lengths": [1024, 2048], "depths": [0, 50, 100], "samples": 2}
TASKS = [f"meap_mrs_{count}" for count in mrs.NEEDLE_COUNTS]


class HalfRight(Fake):
    """Says the first name only, and only for the shorter prompts."""

    def reply(self, document: dict[str, Any], prompt: str) -> str:
        return document["answer"].split()[0] if document["length"] == 1024 else ""


def test_a_model_that_copies_the_answer_scores_100_percent_and_a_silent_one_nothing(score: Any, essays: Path) -> None:
    right, wrong = (score(model, ["meap_mrs"], essays=str(essays), **GRID) for model in (Cheat(), Silent()))
    for name in [*TASKS, "meap_mrs"]:
        assert right[name]["keyword_fraction"] == right[name]["published_mean"] == 1.0
        assert wrong[name]["keyword_fraction"] == wrong[name]["published_mean"] == 0.0


def test_the_score_is_the_share_of_words_averaged_over_lengths(score: Any, essays: Path) -> None:
    found = score(HalfRight(), ["meap_mrs_3"], essays=str(essays), **GRID)["meap_mrs_3"]
    assert found["published_mean"] == found["keyword_fraction"] == 0.25
    assert mrs.mean_over_lengths([(1000, 1.0), (1000, 0.0), (1000, 0.5), (2000, 1.0)]) == 0.75


@pytest.mark.parametrize(("total", "depth"), [(100, 20), (100, 0), (100, 95), (100, 100), (37, 50), (0, 50)])
def test_the_places_are_those_of_inserting_into_the_growing_list(total: int, depth: int) -> None:
    # The published procedure, on marked tokens: -1 is the first needle, -2 the second, and so on.
    needles = [[-1] * 5, [-2] * 3, [-3] * 7, [-4] * 4]
    points: list[int] = []
    for number, _ in enumerate(needles):
        point = int(total * depth / 100) if not number else int(points[-1] + len(needles[number - 1]) + total * 0.1)
        points.append(min(point, total + sum(map(len, needles[:number]))))
    tokens = list(range(total))
    for number, needle in enumerate(needles):
        tokens[points[number] : points[number]] = needle
        for later in range(number + 1, len(needles)):
            points[later] += len(needle)
    found = mrs.places(total, [len(needle) for needle in needles], depth=depth)
    assert found == [sum(token >= 0 for token in tokens[: tokens.index(-number)]) for number in (1, 2, 3, 4)]


def test_all_needles_stand_in_a_prompt_that_leaves_room_for_the_answer(tokenizer_folder: Path, essays: Path) -> None:
    measure = load_measure({"tokenizer": str(tokenizer_folder)})
    built = mrs.build(num_needles=3, tokenizer=str(tokenizer_folder), essays=str(essays), **GRID)["test"]
    assert len(built) == 2 * 3 * 2
    for sample in built:
        record = kinship.generate(3, seed=0, index=sample["repeat"])
        assert all(f"\n{needle}\n" in sample["prompt"] for needle in record["derivations"])
        assert sample["prompt"].endswith(
            f"{record['question']}Before answering, please consider what in the document "
            "is most relevant to this question."
        )
        assert sample["length"] - 620 < measure.count(sample["prompt"]) + mrs.NEW_TOKENS <= sample["length"]


def test_short_lengths_work_and_too_short_ones_are_refused(tokenizer_folder: Path, essays: Path) -> None:
    options = {"tokenizer": str(tokenizer_folder), "essays": str(essays), "depths": [50], "samples": 1}
    assert len(mrs.build(num_needles=2, lengths=[512], **options)["test"]) == 1
    with pytest.raises(UserError, match="length 256 is too short for 2 needles"):
        mrs.build(num_needles=2, lengths=[256], **options)


def test_a_prompt_that_grows_in_encoding_is_shortened(tokenizer_folder: Path) -> None:
    plain = load_measure({"tokenizer": str(tokenizer_folder)})
    measure = Growing(name="growing", tokenizer=plain.tokenizer, limit=None)
    record = kinship.generate(2, seed=0, index=0)
    tokens = measure.encode("It goes on and on. " * 900)
    prompt = mrs.fill(measure, tokens, record, length=4000, depth=50)
    assert 3600 < measure.count(prompt) + mrs.NEW_TOKENS <= 4000


def test_every_repeat_has_its_own_needles_and_its_own_haystack(tokenizer_folder: Path, tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text(f"Essay {number} begins. " + "It goes on and on. " * 30)
    built = mrs.build(
        num_needles=2, tokenizer=str(tokenizer_folder), essays=str(tmp_path), lengths=[2000], depths=[50], samples=6
    )["test"]
    assert len({sample["answer"] for sample in built}) >= 5
    assert len({sample["prompt"].split("user is ")[1][:10] for sample in built}) >= 4


def test_a_chain_follows_its_seed_and_needs_every_sentence() -> None:
    record = kinship.generate(5, seed=3, index=1)
    assert record == kinship.generate(5, seed=3, index=1) != kinship.generate(5, seed=3, index=2)
    assert len(record["derivations"]) == record["derivation_count"] == 5
    youngest = record["question"].removeprefix("Who is the eldest ancestor of ").split(" that ")[0]
    people = {f"{first} {last}" for first in kinship.FIRST for last in kinship.LAST}
    links = [{person for person in people if person in sentence} for sentence in record["derivations"]]
    reached = {youngest}
    for _ in range(5):
        step = next(link for link in links if link & reached and not link <= reached)
        reached |= step
    assert record["answer"] in reached
    assert len(reached) == 6
    assert sum(record["answer"] in sentence for sentence in record["derivations"]) == 1


def test_published_questions_and_essays_are_used_with_the_published_seeds(
    score: Any, tmp_path: Path, tokenizer_folder: Path
) -> None:
    records = [
        {
            "question": f"Q{n}?",
            "answer": f"answer {n}",
            "derivations": [f"fact {n}a", f"answer {n}b"],
            "derivation_count": 2,
        }
        for n in range(9)
    ]
    (tmp_path / mrs.QUESTIONS).write_text(json.dumps(records))
    texts = [f"Text {n} here. " * 40 for n in range(9)]
    (tmp_path / mrs.ESSAYS).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = score(Cheat(), ["meap_mrs_2"], data=str(tmp_path), lengths=[2000], depths=[100], samples=3)
    order = list(range(9))
    for repeat, sample in enumerate(found["samples"]["meap_mrs_2"]):
        random.seed(repeat)
        random.shuffle(order)
        random.seed(repeat)
        assert sample["doc"]["answer"] == random.choice(records)["answer"]
        assert f"user is Text {order[0]} here." in sample["doc"]["prompt"]
        assert sample["doc"]["source"] == "published"
    with pytest.raises(UserError, match="no record with derivation_count 4"):
        mrs.build(num_needles=4, tokenizer=str(tokenizer_folder), data=str(tmp_path))


def test_the_published_groups() -> None:
    assert mrs.group_settings(4000) == (600, mrs.TWENTY_DEPTHS)
    assert mrs.group_settings(8000)[0] == 1000
    assert mrs.group_settings(9000) == (3000, mrs.ELEVEN_DEPTHS)
    assert mrs.TWENTY_DEPTHS[:4] == (0, 5, 10, 15)
    assert mrs.TWENTY_DEPTHS[::2] + (100,) == mrs.ELEVEN_DEPTHS


def test_lengths_above_the_models_limit_are_counted_and_not_scored(score: Any, essays: Path) -> None:
    found = score(Cheat(), ["meap_mrs_2"], essays=str(essays), **GRID, max_length=1500)["meap_mrs_2"]
    assert (found["unfit"], found["published_mean"]) == (6, 1.0)
