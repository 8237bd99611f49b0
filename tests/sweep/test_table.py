"""Results become the paper's tables: the right metric in the right cell, averages computed, gaps shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main
from meap_megatron.errors import UserError
from meap_megatron.evaluation.suites import SUITES
from meap_megatron.sweep import plan
from meap_megatron.sweep.results import read_scores, validation_loss
from meap_megatron.sweep.table import grid_of, read_table, render
from tests.support.runs import ROOT

TABLE = {
    "title": "T",
    "columns": {"ARC-e": "arc_easy", "BoolQ": "boolq", "MDQA": {"task": "mdqa", "metric": "em", "scale": 1}},
    "average": ["ARC-e", "BoolQ"],
    "validation_loss": True,
    "paper": {"ntp": {"ARC-e": 55.7, "BoolQ": 53.3}},
}
SCORES = {
    "ntp": {("arc_easy", "acc"): 0.5, ("arc_easy", "acc_norm"): 0.4, ("boolq", "acc"): 0.61, ("mdqa", "em"): 0.1875},
    "0.15": {("arc_easy", "acc"): 0.25},
}
LOSSES = {"ntp": 3.14159, "0.15": None}


def grid(metric: str, **changes: Any) -> list[list[str]]:
    return grid_of(read_table(TABLE | changes, origin="s.yaml"), SCORES, LOSSES, metric)


def test_acc_is_shown_as_percent_with_recomputed_averages_and_dashes_for_gaps() -> None:
    assert grid("acc") == [
        ["arm", "ARC-e", "BoolQ", "MDQA", "average", "validation loss"],
        ["ntp", "50.00", "61.00", "0.188", "55.50", "3.142"],
        ["ntp, paper", "55.70", "53.30", "-", "54.50", "-"],
        ["0.15", "25.00", "-", "-", "-", "-"],
    ]


def test_acc_norm_falls_back_to_acc_where_a_task_has_none() -> None:
    rows = grid("acc_norm")
    assert rows[1] == ["ntp", "40.00", "61.00", "0.188", "50.50", "3.142"]
    assert rows[3][1] == "25.00"


def test_both_metrics_are_shown_where_a_column_leaves_it_open_and_one_table_where_none_does() -> None:
    shown = render(read_table(TABLE, origin=""), SCORES, LOSSES)
    assert "**T (acc)**" in shown and "**T (acc_norm where the task has it, else acc)**" in shown
    columns = {"MDQA": {"task": "mdqa", "metric": "em", "scale": 1}}
    assert render(read_table({"title": "T", "columns": columns}, origin=""), SCORES, LOSSES) == (
        "**T**\n\n| arm  | MDQA  |\n| ---- | ----- |\n| ntp  | 0.188 |\n| 0.15 | -     |"
    )


def test_arms_can_stand_side_by_side_as_in_table_9() -> None:
    rows = grid("acc", rows="columns", average=None, validation_loss=False, columns={"ARC-e": "arc_easy"})
    assert rows == [["", "ntp", "0.15"], ["ARC-e", "50.00", "25.00"], ["ARC-e, paper", "55.70", "-"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": None}, "a table is a mapping"),
        ({"column": {}}, "unknown key 'column'"),
        ({"columns": {"a": {"metric": "acc"}}}, "column 'a' names a task"),
        ({"columns": {"a": {"task": "t", "scael": 1}}}, "column 'a' names a task"),
        ({"average": ["PIQA"]}, "average over 'PIQA', which is not a column"),
    ],
)
def test_a_faulty_table_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="s.yaml") as caught:
        read_table(TABLE | changes, origin="s.yaml")
    assert message in str(caught.value)


def test_scores_are_read_in_every_form_and_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    harness = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.4}}
    (tmp_path / "deep" / "harness.json").write_text(json.dumps({"results": harness, "config": {}}))
    (tmp_path / "own.json").write_text(json.dumps({"task": "mdqa", "model": "m", "metrics": {"em": 0.2, "n": None}}))
    tasks = [{"task": "kv", "version": 1, "metrics": {"em": {"mean": 1, "low": 0.5}, "n": {"mean": None}}}]
    (tmp_path / "kv.json").write_text(json.dumps({"suite": "kv", "tasks": tasks, "cells": []}))
    (tmp_path / "other.json").write_text(json.dumps({"metrics": 3}))
    (tmp_path / "iter_0000010").mkdir()
    (tmp_path / "iter_0000010" / "metadata.json").write_text("{torn")
    assert read_scores(tmp_path) == {
        ("arc_easy", "acc"): 0.5,
        ("arc_easy", "acc_stderr"): 0.01,
        ("arc_easy", "acc_norm"): 0.4,
        ("mdqa", "em"): 0.2,
        ("kv", "em"): 1.0,
    }


def test_two_different_results_for_one_cell_are_refused_and_equal_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"task": "t", "metrics": {"acc": 0.2}}))
    (tmp_path / "b.json").write_text(json.dumps({"task": "t", "metrics": {"acc": 0.2}}))
    assert read_scores(tmp_path) == {("t", "acc"): 0.2}
    (tmp_path / "b.json").write_text(json.dumps({"task": "t", "metrics": {"acc": 0.3}}))
    with pytest.raises(UserError, match=r"b\.json says t acc = 0\.3, .*a\.json says 0\.2"):
        read_scores(tmp_path)


def test_a_torn_result_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"task": ')
    with pytest.raises(UserError, match=r"cannot read the results in .*a\.json"):
        read_scores(tmp_path)


def test_the_validation_loss_is_the_last_one_and_not_that_of_the_test_set(tmp_path: Path) -> None:
    assert validation_loss(tmp_path) is None
    events = [("validation", 4.0), ("validation", 3.0), ("test", 2.0)]
    lines = [json.dumps({"event": event, "step": 1, "lm_loss": loss}) for event, loss in events]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert validation_loss(tmp_path) == 3.0


def test_the_paper_s_rows_give_the_averages_that_the_protocol_recomputed() -> None:
    def averages(name: str, index: int) -> dict[str, str]:
        sweep = plan.load(ROOT / "examples" / "sweeps" / name, [])
        table = read_table(sweep.tables[index], origin="")
        rows = grid_of(table, {arm.name: {} for arm in sweep.arms}, {}, "acc")
        column = rows[0].index("average")
        return {row[0]: row[column] for row in rows if row[0].endswith(", paper")}

    assert averages("pretrain_strategy.yaml", 0) == {
        "ntp, paper": "38.52",
        "random, paper": "41.13",
        "span5, paper": "41.14",
        "span50, paper": "41.64",
    }
    assert averages("pretrain_ratio.yaml", 1) == {
        "ntp, paper": "46.83",
        "0.05, paper": "47.63",
        "0.10, paper": "46.78",
        "0.15, paper": "47.84",
    }


def test_the_verb_prints_table_9_from_result_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = str(ROOT / "examples" / "sweeps" / "sft_ratio.yaml")
    assert main(["sweep", "table", sweep, "--results", str(tmp_path / "none")]) == 2
    (tmp_path / "0.10").mkdir()
    result = {"task": "meap_nq_open_oracle", "model": "x", "metrics": {"best_subspan_em": 0.8056}}
    (tmp_path / "0.10" / "mdqa.json").write_text(json.dumps(result))
    assert main(["sweep", "table", sweep, "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["", "ntp", "0.05", "0.10", "0.15"]
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == ["accuracy", "-", "-", "0.806", "-"]
    assert [cell.strip() for cell in lines[5].split("|")[1:-1]] == [
        "accuracy, paper",
        "0.720",
        "0.770",
        "0.810",
        "0.710",
    ]


def test_the_tables_ask_for_tasks_and_metrics_that_meap_evaluate_gives() -> None:
    headlines = {task: suite.headline for suite in SUITES.values() for task in suite.tasks}
    columns = [
        column
        for path in (ROOT / "examples" / "sweeps").glob("*.yaml")
        for table in plan.load(path, []).tables
        for column in read_table(table, origin=str(path)).columns
    ]
    assert len(columns) == 1 + 7 + 8 + 1
    assert all(headlines[column.task] == (column.metric or "acc") for column in columns)
