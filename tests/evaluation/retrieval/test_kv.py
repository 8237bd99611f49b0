"""The key stands where it should, generated sets follow their seed, and the prompt is the published one."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.retrieval import kv
from meap_megatron.evaluation.suites import KV_POSITIONS
from tests.evaluation.fakes import Cheat, Silent, write_gz

TASKS = ["meap_kv_75", "meap_kv_140"]


def test_the_prompt_is_the_published_one() -> None:
    pairs = [("test key1", "test value1"), ("test key2", "test value2"), ("test key3", "test value3")]
    assert kv.render(pairs, "test key2").split("\n") == [
        "Extract the value corresponding to the specified key in the JSON object below.",
        "",
        "JSON data:",
        '{"test key1": "test value1",',
        ' "test key2": "test value2",',
        ' "test key3": "test value3"}',
        "",
        'Key: "test key2"',
        "Corresponding value:",
    ]


def test_a_model_that_copies_the_value_scores_100_percent_and_a_silent_one_nothing(score: Any) -> None:
    right, wrong = (score(model, TASKS, samples=2) for model in (Cheat(), Silent()))
    for number, places in KV_POSITIONS.items():
        for name in [f"meap_kv_{number}", *(f"meap_kv_{number}_gold_at_{place}" for place in places)]:
            assert (right[name]["contains_value"], wrong[name]["contains_value"]) == (1.0, 0.0)


def test_the_key_stands_at_its_place_and_the_others_keep_their_order() -> None:
    pairs = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]
    assert kv.place(pairs, "c", gold_index=0) == [("c", "3"), ("a", "1"), ("b", "2"), ("d", "4")]
    assert kv.place(pairs, "a", gold_index=3) == [("b", "2"), ("c", "3"), ("d", "4"), ("a", "1")]
    with pytest.raises(UserError, match="key 'x' occurs 0 times among 4 pairs"):
        kv.place(pairs, "x", gold_index=0)
    with pytest.raises(UserError, match="is to be at 4"):
        kv.place(pairs, "a", gold_index=4)


def test_generated_examples_follow_seed_and_index() -> None:
    first = kv.generate(75, seed=0, index=0)
    assert first == kv.generate(75, seed=0, index=0)
    others = [kv.generate(75, seed=1, index=0), kv.generate(75, seed=0, index=1)]
    assert len({first["key"], *(other["key"] for other in others)}) == 3
    assert len({name for name, _ in first["ordered_kv_records"]}) == 75
    assert [first["key"], first["value"]] in first["ordered_kv_records"]


def test_published_examples_come_before_generated_ones(score: Any, tmp_path: Path) -> None:
    pairs = [[f"key {n}", f"value {n}"] for n in range(75)]
    example = {"ordered_kv_records": pairs, "key": "key 9", "value": "value 9"}
    write_gz(tmp_path / "kv-retrieval-75_keys.jsonl.gz", [example])
    found = score(Cheat(), ["meap_kv_75_gold_at_24"], data=str(tmp_path))
    (sample,) = found["samples"]["meap_kv_75_gold_at_24"]
    assert sample["doc"]["source"] == "published"
    assert sample["doc"]["prompt"].split("\n")[3 + 24] == ' "key 9": "value 9",'


def test_objects_that_do_not_fit_the_model_are_counted_and_not_scored(score: Any) -> None:
    found = score(Cheat(), ["meap_kv_75_gold_at_0"], samples=2, max_length=2048)["meap_kv_75_gold_at_0"]
    assert found["unfit"] == 2
    assert "contains_value" not in found
