"""NoLiMa's needle is where it should be, within the length; its data are found by path or refused by name."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.prompt_length import load_measure
from meap_megatron.evaluation.retrieval import nolima
from meap_megatron.evaluation.suites import SUITES
from tests.evaluation.fakes import Cheat, Silent

TASKS = list(SUITES["nolima"].tasks)
GRID: dict[str, Any] = {"lengths": [512, 1024], "depths": [0, 50, 100]}


def test_a_model_that_copies_scores_100_percent_and_a_silent_one_nothing(score: Any, long_context_data: Path) -> None:
    for model, expected in ((Cheat(), 1), (Silent(), 0)):
        found = score(model, TASKS, data=str(long_context_data), **GRID)
        assert [found[task]["contains_answer"] for task in TASKS] == [expected] * 2
        # Two needles in two books.
        assert [found[task]["sample_len"] for task in TASKS] == [2 * 3 * 2 * 2] * 2


def test_the_needle_is_behind_a_line_at_its_depth_and_the_prompt_fills_its_length(
    tokenizer_folder: Path, long_context_data: Path
) -> None:
    settings = {"tokenizer": str(tokenizer_folder), "data": str(long_context_data), **GRID}
    measure = load_measure(settings)
    for sample in nolima.build(hops="twohop", **settings)["test"]:
        assert sample["length"] - 60 < measure.count(sample["prompt"]) + nolima.NEW_TOKENS <= sample["length"]
        assert sample["answer"] in sample["needle"]
        assert "Who has been to Saxony?" in sample["prompt"] or "Who has been to Italy?" in sample["prompt"]
        assert sample["prompt"].endswith("Only the answer.\nAnswer:")
        snippet = sample["prompt"].split("A snippet:\n\n")[1].split("\n\nQuestion")[0]
        before, after = snippet.split(sample["needle"])
        share = len(before) / len(before + after)
        assert share == sample["depth"] / 100 or (sample["depth"] == 50 and 0.3 < share <= 0.5) or not after.strip()
        assert not before or before.endswith("\n")


def test_the_number_of_samples_draws_needles_by_the_seed(tokenizer_folder: Path, long_context_data: Path) -> None:
    def drawn(**options: Any) -> list[tuple[str, str]]:
        settings = {"tokenizer": str(tokenizer_folder), "data": str(long_context_data), **GRID, **options}
        made = nolima.build(hops="onehop", **settings)["test"]
        return sorted({(sample["test"], sample["book"]) for sample in made})

    assert len(drawn()) == 4
    assert len(drawn(samples=2)) == 2 and drawn(samples=2) == drawn(samples=2)
    assert any(drawn(samples=2, seed=seed) != drawn(samples=2) for seed in range(1, 6))


def test_missing_or_other_data_are_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            nolima.build(hops="onehop", tokenizer=str(tokenizer_folder), data=str(tmp_path))
        return str(caught.value)

    assert "NoLiMa: rand_shuffle/*.txt not found in DATA/nolima; its data are not bundled" in refusal()
    (tmp_path / "nolima" / "rand_shuffle").mkdir(parents=True)
    (tmp_path / "nolima" / "rand_shuffle" / "book.txt").write_text("A day.\n" * 100)
    assert "needle_set.json not found" in refusal() and "Adobe Research License" in refusal()
    needles = tmp_path / "nolima" / "needle_set.json"
    needles.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "Git LFS pointer" in refusal()
    needles.write_text('[{"id": "1", "needle": "x"}]')
    assert "record 1 needs id, needle, questions, tests, task_template, character_set" in refusal()
    needles.write_text("[")
    assert "cannot be read as JSON" in refusal()
