"""BABILong's data are found by path and asked as the harness asks; other files are refused."""

from pathlib import Path
from typing import Any

import pytest

from meap_megatron.errors import UserError
from meap_megatron.evaluation.retrieval import babilong
from meap_megatron.evaluation.suites import SUITES
from tests.evaluation.fakes import Cheat, Silent

TASKS = list(SUITES["babilong"].tasks)


def test_a_model_that_copies_scores_100_percent_and_a_silent_one_nothing(score: Any, long_context_data: Path) -> None:
    for model, expected in ((Cheat(), 1), (Silent(), 0)):
        found = score(model, TASKS, data=str(long_context_data), samples=2)
        assert [found[task]["acc"] for task in TASKS] == [expected] * 5
        assert [found[task]["sample_len"] for task in TASKS] == [2 * 2] * 5


@pytest.mark.parametrize("question", [f"qa{number}" for number in range(1, 6)])
def test_the_prompt_is_that_of_the_harness(question: str, tokenizer_folder: Path, long_context_data: Path) -> None:
    import datasets
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    settings = {"tokenizer": str(tokenizer_folder), "data": str(long_context_data), "samples": 1, "lengths": [1024]}
    (sample,) = babilong.build(question=question, **settings)["test"]
    config = load_yaml(Path(lm_eval.tasks.__file__).parent / "babilong" / f"babilong_{question}.yaml")
    (path,) = (long_context_data / "babilong" / "1k").glob(f"{question}.json")
    document = babilong.records_of(path)[0]
    config["custom_dataset"] = lambda **_: {question: datasets.Dataset.from_list([document])}
    task = ConfigurableTask(config=config)
    assert sample["prompt"] == task.fewshot_context(document, 2)
    for said in ("In the Park.", "In the garden."):
        assert babilong.process_results(sample, [said])["acc"] == task.process_results(document, [said])["acc"]


def test_a_length_takes_the_longest_published_one_that_is_not_above_it(
    tokenizer_folder: Path, long_context_data: Path
) -> None:
    def lengths(**options: Any) -> list[int]:
        settings = {"tokenizer": str(tokenizer_folder), "data": str(long_context_data), "samples": 1, **options}
        return [sample["length"] for sample in babilong.build(question="qa1", **settings)["test"]]

    assert lengths() == [0, 1024]
    assert lengths(lengths=[512, 4096]) == [0, 1024]
    assert lengths(lengths="512") == [0]


def test_both_published_layouts_are_read(tokenizer_folder: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"input": ["Mary went to the park."], "question": ["Where is Mary?"], "target": ["park"]})
    for path in ("4k/qa1-00000-of-00002.parquet", "4k/qa1-00001-of-00002.parquet", "data/qa1/16k.parquet"):
        (tmp_path / "babilong" / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / "babilong" / path)
    made = babilong.build(question="qa1", tokenizer=str(tokenizer_folder), data=str(tmp_path))["test"]
    assert [sample["length"] for sample in made] == [4096, 4096, 16384]


def test_missing_or_other_data_are_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            babilong.build(question="qa1", tokenizer=str(tokenizer_folder), data=str(tmp_path))
        return str(caught.value)

    assert "BABILong qa1: no data found in DATA/babilong; they are not bundled" in refusal()
    folder = tmp_path / "babilong" / "1k"
    folder.mkdir(parents=True)
    (folder / "qa10.json").write_text("[]")
    assert "no data found in" in refusal()
    (folder / "qa1.parquet").write_text("not parquet")
    assert "is not a file of BABILong" in refusal()
    (folder / "qa1.parquet").unlink()
    (folder / "qa1.json").write_text('[{"text": "x"}]')
    assert "a record needs input, question, target" in refusal()
