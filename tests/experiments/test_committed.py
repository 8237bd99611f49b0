"""The tables that are published are those that the scripts make of the published scores."""

import shutil
from pathlib import Path

import pytest

from experiments.finetuning import __main__ as finetuning
from experiments.finetuning import plan as finetuning_plan
from experiments.repeated import __main__ as repeated
from experiments.repeated import plan as repeated_plan
from experiments.retrieval_small import __main__ as retrieval_small
from experiments.retrieval_small import plan as retrieval_plan


@pytest.mark.parametrize(
    ("script", "record", "words"),
    [
        (finetuning, finetuning_plan.REGISTERED.record, []),
        (repeated, repeated_plan.RECORD, []),
        (retrieval_small, retrieval_plan.REGISTERED.record, []),
        (retrieval_small, retrieval_plan.PAST_PLATEAU.record, ["--past-plateau"]),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_a_published_table_is_made_of_the_published_scores(script, record: Path, words: list[str], tmp_path: Path):
    copied = shutil.copytree(record, tmp_path / "record")
    (copied / "table.md").unlink()
    assert script.main(["report", *words, "--out", str(tmp_path / "out"), "--record", str(copied)]) == 0
    assert (copied / "table.md").read_text(encoding="utf-8") == (record / "table.md").read_text(encoding="utf-8")
