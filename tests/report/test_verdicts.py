"""The verdict of every suite: which questions are compared, how they are weighted, and what the page says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_page import rows, task, write


def answered(folder: Path, suite: str, scores: dict[str, list[float]], *, metric: str, prompts: str = "p") -> Path:
    """Write results whose samples have these scores: task -> a score for each question."""
    lines = [
        {"task": name, "doc_id": number, "prompt_sha256": f"{prompts} {name} {number}", "metrics": {metric: value}}
        for name, values in scores.items()
        for number, value in enumerate(values)
    ]
    write(folder, suite, [task(name, prompts=prompts, **{metric: 0.5}) for name in scores])
    (folder / f"{suite}.samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def verdict(page: str, label: str) -> list[str]:
    """Return the cells of a model's first verdict."""
    return next(row for row in rows(page, "Verdicts") if row[0] == label)


@pytest.mark.parametrize(
    ("after", "word", "style"),
    [([1.0] * 20, "better", "better"), ([0.0] * 20, "worse", "worse"), ([1.0, 0.0] * 10, "no difference shown", "")],
)
def test_a_model_is_better_worse_or_not_shown_to_differ(
    report: Any, tmp_path: Path, after: list[float], word: str, style: str
) -> None:
    before = [0.0, 1.0] * 10
    ntp = answered(tmp_path / "ntp", "kv", {"meap_kv_75_gold_at_0": before}, metric="contains_value")
    meap = answered(tmp_path / "meap", "kv", {"meap_kv_75_gold_at_0": after}, metric="contains_value")
    page = report(ntp, meap)
    found = verdict(page, "meap")
    assert found[1] == word and f'<td class="{style}">{word}</td>' in page
    assert found[4:6] == [f"{5 * sum(after):.1f}", "50.0"] and found[7] == "20"
    assert found[2].startswith(f"{5 * sum(after) - 50:+.1f} [")
    assert "compares meap (1.18B) with the baseline, <b>ntp (1.18B)</b>" in page


def test_a_question_that_is_asked_at_two_places_counts_once(report: Any, tmp_path: Path) -> None:
    places = ("meap_mdqa_20_gold_at_0", "meap_mdqa_20_gold_at_4")
    folders = [
        answered(tmp_path / label, "mdqa", dict.fromkeys(places, values), metric="best_subspan_em")
        for label, values in (("ntp", [0.0] * 5), ("meap", [1.0] * 5))
    ]
    found = verdict(report(*folders), "meap")
    # Ten samples would be significant (p = 0.002), five questions are not.
    assert (found[1], found[6], found[7]) == ("no difference shown", "0.062", "5")


def test_small_tasks_weigh_as_much_as_large_ones_and_only_shared_questions_count(report: Any, tmp_path: Path) -> None:
    ntp = answered(tmp_path / "ntp", "commonsense", {"piqa": [0.0] * 40, "boolq": [0.0] * 10}, metric="acc")
    meap = answered(tmp_path / "meap", "commonsense", {"piqa": [0.0] * 30, "boolq": [1.0] * 10}, metric="acc")
    found = verdict(report(ntp, meap), "meap")
    assert (found[4], found[5], found[7]) == ("50.0", "0.0", "40")


def test_other_questions_are_compared_without_pairs_and_the_page_says_so(report: Any, tmp_path: Path) -> None:
    task_name = "meap_kv_75_gold_at_0"
    ntp = answered(tmp_path / "ntp", "kv", {task_name: [0.0, 1.0] * 20}, metric="contains_value")
    chat = answered(tmp_path / "chat", "kv", {task_name: [1.0] * 40}, metric="contains_value", prompts="chat")
    page = report(ntp, chat)
    assert verdict(page, "chat")[1] == "better" and verdict(page, "chat")[7] == "40 not the same"
    assert "did not answer the same questions" in page


def test_without_a_name_the_first_evaluated_run_is_the_baseline_and_many_comparisons_are_counted(
    report: Any, tmp_path: Path
) -> None:
    folders = [
        answered(tmp_path / label, "kv", {"meap_kv_75_gold_at_0": [0.0, 1.0]}, metric="contains_value")
        for label in ("a", "b", "c")
    ]
    page = report(*folders)
    assert "against a" in page and "These are 2 comparisons" in page
    assert "against b" in report(*folders, "--baseline", "b")


def test_one_model_has_scores_with_intervals_and_no_verdict(report: Any, tmp_path: Path) -> None:
    page = report(answered(tmp_path / "one", "kv", {"meap_kv_75_gold_at_0": [0.0] * 12}, metric="contains_value"))
    (row,) = [row for row in rows(page, "Scores") if row[0] == "one"]
    assert row == ["one", "0.0", "[0.0, 24.2]", "12"]
    assert "Verdicts" not in page and "give the results of a second model" in page


def test_of_bits_per_byte_less_is_better_and_nothing_is_in_per_cent(report: Any, tmp_path: Path) -> None:
    name, head = "meap_kv_75_gold_at_0", {"percent": False, "lower_is_better": True}
    for label, offset in (("ntp", 1.0), ("meap", 0.9)):
        values = [offset + number / 100 for number in range(20)]
        folder = answered(tmp_path / label, "kv", {name: values}, metric="contains_value")
        content = json.loads((folder / "kv.json").read_text())
        (folder / "kv.json").write_text(json.dumps(content | {"headline": head}))
    found = verdict(report(tmp_path / "ntp", tmp_path / "meap"), "meap")
    assert (found[1], found[2].split()[0], found[4]) == ("better", "-0.1000", "0.9950")


def test_a_torn_file_of_samples_is_refused_with_its_line(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = answered(tmp_path / "one", "kv", {"meap_kv_75_gold_at_0": [0.0] * 3}, metric="contains_value")
    with (folder / "kv.samples.jsonl").open("a") as file:
        file.write('{"task": ')
    report(folder, status=2)
    assert "kv.samples.jsonl:4: not a sample of `meap evaluate`" in capsys.readouterr().err


def test_a_suite_that_the_paper_does_not_have_gets_its_measures_by_length_and_effective_length() -> None:
    from meap_megatron.report.collect import ReportedRun
    from meap_megatron.report.measures import measures_tables

    content = {
        "headline": {"by_length": {"1024": 0.9, "4096": 0.5}},
        "effective_length": {"threshold": 0.856, "absolute": 1024, "share": 0.85, "relative": None},
        "tasks": [task("meap_kv_75", contains_value=0.5)],
    }
    by_length, by_task = measures_tables([ReportedRun(label="m", documents={"kv": content})], "kv")
    assert by_length.headings == ["", "1,024 tokens", "4,096 tokens", "effective, 85.6 %", "effective, 85 % of base"]
    (row,) = by_length.parts[0][1]
    assert [getattr(cell, "text", cell) for cell in row] == ["m", "90.00", "50.00", "1,024", "–"]
    assert by_task.headings == ["", "contains value"]
