"""`meap report`: our scores beside the paper's, what is missing is named, nothing is fetched, wrong input is refused."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from meap_megatron.cli.main import main
from meap_megatron.report.charts import colour
from meap_megatron.report.tables import paper
from meap_megatron.report.training import family

ROOT = Path(__file__).resolve().parents[2]


def metric(mean: float, stderr: float = 0.01, n: int = 100) -> dict[str, float]:
    return {"n": n, "mean": mean, "stderr": stderr, "low": mean - 0.02, "high": mean + 0.02}


def task(name: str, prompts: str = "p1", unfit: int = 0, sources: Any = (), **metrics: float) -> dict[str, Any]:
    return {
        "task": name,
        "version": 1,
        "samples": 100,
        "unfit": unfit,
        "prompts_sha256": prompts,
        "sources": list(sources),
        "metrics": {key: metric(value) for key, value in metrics.items()},
    }


def write(folder: Path, suite: str, tasks: list[dict[str, Any]], *, model: str = "a" * 64, **more: Any) -> Path:
    """Write a results document as `meap evaluate` does."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": 1,
        "suite": suite,
        "created": "2026-01-01T00:00:00+00:00",
        "seconds": 3.0,
        "seed": 0,
        "samples": 100 * len(tasks),
        "unfit": sum(one["unfit"] for one in tasks),
        "model": {
            "fingerprint": model,
            "max_length": 4096,
            "parameters": 1_180_000_000,
            "dtype": "float32",
            "device": "cpu",
            "architecture": "LlamaForCausalLM",
        },
        "tokenizer": {"fingerprint": "c" * 64},
        "bos": {"add_bos": True, "source": "meap_eval.json"},
        "settings": {"seed": 0, "limit": None},
        "headline": {},
        "tasks": tasks,
        "cells": [],
        "versions": {"torch": "2.0"},
        "git_commit": "f" * 40,
        **more,
    }
    (folder / f"{suite}.json").write_text(json.dumps(content))
    return folder


def mdqa(folder: Path, values: list[float], **more: Any) -> Path:
    places = (0, 4, 9, 14, 19)
    tasks = [
        task(f"meap_mdqa_20_gold_at_{place}", best_subspan_em=value, sources=more.get("sources", ["published"]))
        for place, value in zip(places, values, strict=True)
    ]
    cells = [
        {"num_documents": 20, "gold_index": place, "n": 100, "unfit": 0, "mean": value}
        for place, value in zip(places, values, strict=True)
    ]
    mean = sum(values) / len(values)
    return write(folder, "mdqa", tasks, cells=cells, headline={"average": {"20": mean}, "by_position": {}})


def training(folder: Path, *, steps: int = 20, ratio: float = 0.15) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "run": {"train_iters": steps, "meap_mask_ratio": ratio}}
    ]
    for step in range(1, steps + 1):
        loss = 8 - step / 10
        records.append(
            {"event": "step", "step": step, "lm_loss": loss, "masked_loss": loss + 1, "other_loss": loss}
            | {"mask_fraction": ratio, "grad_norm": 1.5, "consumed_tokens": step * 1000, "tokens_per_second": 500.0}
            | {"mfu": None, "seconds": 2.0}
        )
    records.append({"event": "validation", "step": steps, "lm_loss": 5.5, "masked_loss": None, "other_loss": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


class Rows(HTMLParser):
    """The text of all table rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def rows(page: str, after: str) -> list[list[str]]:
    """Return the rows of the first table behind a heading."""
    parser = Rows()
    parser.feed(page[page.index(html.escape(after)) :].split("</table>")[0])
    return [[cell.strip() for cell in row] for row in parser.rows]


COMMONSENSE = ("arc_challenge", "arc_easy", "boolq", "piqa", "hellaswag", "winogrande", "openbookqa")


def test_scores_stand_above_those_of_the_paper_with_their_error_and_average(report: Any, tmp_path: Path) -> None:
    tasks = [task(name, acc=0.5 + number / 100) for number, name in enumerate(COMMONSENSE)]
    tasks[0]["metrics"]["acc_norm"] = metric(0.25)
    page = report(write(tmp_path / "ours", "commonsense", tasks))
    found = rows(page, "acc (Tables 1, 5")
    ours = next(row for row in found if row[0] == "ours")
    assert ours[1:8] == [f"{50 + number:.2f} ±1.00" for number in range(7)]
    assert ours[8] == "53.00 ±0.38"  # seven independent errors of 1.00: 7 ** 0.5 / 7
    ntp = next(row for row in found if row[0] == "NTP")
    assert ntp == ["NTP", "22.9", "55.7", "53.3", "73.6", "44.1", "55.0", "23.2", "46.83 †46.2"]
    normalised = next(row for row in rows(page, "acc_norm where the task has it") if row[0] == "ours")
    assert normalised[1:3] == ["25.00 ±1.00", "51.00 ±1.00"]


def test_what_was_not_run_is_called_so_and_tables_without_results_fold_up(report: Any, tmp_path: Path) -> None:
    one, two = mdqa(tmp_path / "one", [0.5] * 5), write(tmp_path / "two", "kv", [task("meap_kv_75_gold_at_0")])
    page = report(one, two)
    assert [row for row in rows(page, "20 documents (Tables 7") if row[0] == "two"] == [["two", *["not run"] * 6]]
    folded = page[page.index("tables of the paper that were not run") :]
    assert "Table 4, judge GPT-4o" in folded and "Table 10" in folded and "Figure 6" in folded
    assert "Table 8: Llama-3-8B" not in folded


def test_table_3_compares_with_the_baseline_in_per_cent_of_it_and_in_points(report: Any, tmp_path: Path) -> None:
    ntp, meap = mdqa(tmp_path / "ntp", [0.4] * 5), mdqa(tmp_path / "meap", [0.5, 0.4, 0.3, 0.4, 0.4])
    found = rows(report(ntp, meap), "gain over the baseline")
    assert found[2] == ["meap over ntp", *["not run"] * 3] + [
        "+25.0 (+10.0)",
        "+0.0 (+0.0)",
        "-25.0 (-10.0)",
        "+0.0 (+0.0)",
        "+0.0 (+0.0)",
    ]
    other = rows(report(ntp, meap, "--baseline", "meap"), "gain over the baseline")
    assert other[2][0] == "ntp over meap"
    report(ntp, meap, "--baseline", "nobody", status=2)


def test_synthetic_data_and_other_questions_and_left_out_samples_are_pointed_out(report: Any, tmp_path: Path) -> None:
    one = mdqa(tmp_path / "one", [0.5] * 5, sources=["synthetic distractors"])
    write(one, "kv", [task("meap_kv_75_gold_at_0", prompts="p1", unfit=7)])
    two = write(tmp_path / "two", "kv", [task("meap_kv_75_gold_at_0", prompts="p2")], model="b" * 64)
    page = report(one, two)
    assert next(row for row in rows(page, "20 documents (Tables 7") if row[0] == "one")[1] == "50.00 ±1.00*"
    assert "not the published data" in page
    assert "did not answer the same questions in meap_kv_75_gold_at_0" in page
    assert "one kv 7 of 100" in page
    assert "a" * 12 in page and "b" * 12 in page and "1.18B" in page and "BOS (meap_eval.json)" in page


def test_key_value_scores_have_a_table_of_their_own_and_are_no_missing_table_of_the_paper(
    report: Any, tmp_path: Path
) -> None:
    tasks = [task("meap_kv_75_gold_at_24", contains_value=0.25, sources=["generated"]), task("meap_kv_140_gold_at_0")]
    page = report(f"one={write(tmp_path / 'one', 'kv', tasks)}")
    (ours,) = [row for row in rows(page, "Key-value retrieval") if row[0] == "one"]
    assert ours[1:6] == ["not run", "25.00 ±1.00*", "not run", "not run", "does not fit"]
    assert "Key-value" not in report(f"one={mdqa(tmp_path / 'two', [0.5] * 5)}")


def test_judges_stand_in_rows_of_their_own_with_unparsed_answers(report: Any, tmp_path: Path) -> None:
    judges = {"gpt": {"xsum": {**metric(0.14, 0.035), "unparsed": 3}}}
    folder = write(tmp_path / "m", "hallucination", [task("hallucination_xsum")], headline={"judges": judges})
    found = rows(report(folder), "accuracy by the judge")
    assert ["m, judge gpt", "0.140 ±0.035 (3 unparsed)", "not run", "not run"] in found
    assert ["MEAP", "0.13", "0.19", "0.33"] in found
    folder = write(
        tmp_path / "n", "hallucination", [task("hallucination_xsum", rougeL_f1=0.25)], headline={"judges": {}}
    )
    page = report(folder)
    assert ["n", "not run", "not run", "not run"] in rows(page, "accuracy by the judge")
    assert ["n", "0.250 ±0.010", "not run", "not run"] in rows(page, "Summaries, ROUGE-L F1")


def test_the_needle_is_drawn_cell_by_cell_and_what_does_not_fit_stays_grey(report: Any, tmp_path: Path) -> None:
    cells = [
        {"length": 1024, "depth": 0.0, "n": 3, "unfit": 0, "mean": 1.0},
        {"length": 1024, "depth": 50.0, "n": 3, "unfit": 0, "mean": 0.0},
        {"length": 8192, "depth": 0.0, "n": 0, "unfit": 3, "mean": None},
    ]
    head = {"average": 0.5, "longest": None, "no_needle": 0.33, "published_needle": 0.6}
    page = report(write(tmp_path / "m", "needle", [task("meap_needle", strict_hit=0.2)], cells=cells, headline=head))
    drawn = re.findall(r'fill="([^"]+)"><title>([^<]+)<', page)
    assert drawn == [
        (colour(1), "1K tokens, depth 0 %: 100.0 %, 3 samples"),
        (colour(0), "1K tokens, depth 50 %: 0.0 %, 3 samples"),
        ("var(--line)", "8K tokens, depth 0 %: does not fit"),
    ]
    found = rows(page, "Needle in a haystack (Table 2")
    assert next(row for row in found if row[0] == "m")[1:] == [
        "50.00",
        "does not fit",
        "60.00",
        "33.00",
        "20.00 ±1.00",
    ]


def test_attention_of_a_pair_stands_beside_tables_10_and_16_to_18_with_its_figures(
    report: Any, tmp_path: Path
) -> None:
    found = {"decay": 0.25, "decay_t": -3.5, "variance_increase": 0.1, "variance_t": None}
    head = {"by_length": {"1024": {"table_10": found, "model": {**found, "decay": 0.125}}}}
    ntp = {"fingerprint": "d" * 64, "tokenizer": {"fingerprint": "c" * 64}, "bos": {"add_bos": True, "source": "x"}}
    folder = write(tmp_path / "meap", "attention", [task("attention_1024")], headline=head, baseline=ntp)
    shares = dict(zip(("before", "answer", "after", "query", "eos"), (0.4, 0.3, 0.1, 0.1, 0.1), strict=True))
    cells = [
        {"text": text, "arm": arm, "region": region, "n": n, "unfit": 0, "mean": share}
        for text, n in (("table_17", 1), ("templated", 200))
        for arm in ("ntp", "meap")
        for region, share in shares.items()
    ]
    write(folder, "regions", [task("regions_paper")], cells=cells)
    (folder / "attention.png").write_bytes(b"picture")
    page = report(folder, mdqa(tmp_path / "other", [0.5] * 5))
    table_10 = rows(page, "Attention to masked tokens")
    assert ["meap, T = 1,024, masked MEAP, clean NTP", "25.00", "-3.50", "10.00", "–"] in table_10
    assert ["meap, T = 1,024, model alone", "12.50", "-3.50", "10.00", "–"] in table_10
    assert ["T = 4,096", "53.34", "-9.97", "7.80", "5.22"] in table_10
    regions = rows(page, "Attention to regions")
    assert ["meap: NTP model", "0.400", "0.300", "0.100", "0.100", "0.100"] in regions
    assert ["MEAP, paper", "0.435", "0.386", "0.066", "0.057", "0.055"] in regions
    assert sum(row == ["200 templated items, mean"] for row in regions) == 1
    assert next(row for row in rows(page, "Models") if row[0] == "meap: NTP model")[2] == "d" * 12
    assert "data:image/png;base64,cGljdHVyZQ==" in page


def test_a_training_run_alone_gives_its_curves_and_totals(report: Any, tmp_path: Path) -> None:
    page = report(training(tmp_path / "meap"), training(tmp_path / "ntp", ratio=0.0))
    found = rows(page, "Training")
    assert found[1] == ["meap", "20 of 20", "20,000", "0.15", "6.050", "5.500", "500", "–", "40.0 s", "0"]
    for title in ("Validation loss", "Training loss", "[MASK]", "Gradient norm", "Throughput"):
        assert title in page
    assert page.count("<g class=") == 2 * 6
    assert "Models" not in page and "Table 1" not in page


def test_scores_are_drawn_against_training_for_runs_that_have_both(report: Any, tmp_path: Path) -> None:
    words = []
    for number, steps in ((1, 10), (2, 20)):
        words += [f"NTP-{number}={training(tmp_path / f'train{number}', steps=steps)}"]
        words += [f"NTP-{number}={mdqa(tmp_path / f'scores{number}', [number / 10] * 5)}"]
    page = report(*words)
    part = page[page.index("Training efficiency") :]
    assert ["NTP-1", "20.0 s", "10,000", "10.00"] in rows(part, "Training efficiency")
    assert ["NTP-2", "40.0 s", "20,000", "20.00"] in rows(part, "Training efficiency")
    assert "<title>NTP, tokens (millions) 0.02: 20.000</title>" in part
    assert [family(label) for label in ("NTP-1", "a_0.3b", "meap", "-7")] == ["NTP", "a_0.3b", "meap", "-7"]


def test_the_page_loads_nothing_and_shows_names_as_text(report: Any, tmp_path: Path) -> None:
    folder = mdqa(tmp_path / "<script>alert(1)</script>", [0.5] * 5)
    page = report(folder)
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)


def test_runs_below_one_folder_are_told_apart(report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arm in ("a", "b"):
        training(tmp_path / "sweep" / arm)
        mdqa(tmp_path / "sweep" / arm / "hf" / "evaluation", [0.5] * 5)
        training(tmp_path / "sweep" / arm / "iter_0000010")  # a checkpoint: not searched
    report(tmp_path / "sweep")
    assert "sweep/a: mdqa, training\nsweep/b: mdqa, training" in capsys.readouterr().out
    training(tmp_path / "sweep")
    report(tmp_path / "sweep", status=2)
    assert "metrics.jsonl twice" in capsys.readouterr().err


def test_wrong_input_is_refused_with_the_file_and_the_reason(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty := tmp_path / "empty").mkdir()
    (torn := mdqa(tmp_path / "torn", [0.5] * 5)) and (torn / "mdqa.json").write_text('{"format": 1,')
    (foreign := tmp_path / "foreign").mkdir()
    (foreign / "needle.json").write_text('{"needle": 1}')
    (lines := training(tmp_path / "lines") / "metrics.jsonl").write_text(
        '{"event": "start"}\nnonsense\n{"event": "end"}\n'
    )
    for word, message in [
        (empty, "holds no results (commonsense.json"),
        (tmp_path / "absent", "is not a folder"),
        (torn, "mdqa.json is not JSON"),
        (foreign, "needle.json is not a results document of meap evaluate needle, format 1 (it lacks suite"),
        (lines.parent, "metrics.jsonl:2: not a record of a training run"),
    ]:
        report(word, status=2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_a_page_is_not_replaced_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = training(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    first = (folder / "report.html").read_text()
    assert main(["report", str(folder)]) == 2
    assert "exists\n  fix: choose another --out" in capsys.readouterr().err
    assert main(["report", str(folder), "--overwrite", "--title", "Other"]) == 0
    assert (folder / "report.html").read_text() != first


def test_the_papers_numbers_are_those_of_the_sweep_files() -> None:
    blocks = {block["id"]: block for block in paper()}
    headings = list(blocks["commonsense_acc"]["columns"])
    of = {part["caption"].split(":")[0]: part["rows"] for part in blocks["commonsense_acc"]["tables"]}
    oracle = [part["rows"] for part in blocks["oracle"]["tables"]]
    compared = 0
    for name, pairs in {
        "pretrain_ratio": [(oracle[0], ["accuracy"]), ({**of["Table 14"], "ntp": of["Table 1"]["NTP"]}, headings)],
        "sft_ratio": [(oracle[1], ["accuracy"])],
        "pretrain_strategy": [(of["Table 15"], headings)],
    }.items():
        content = yaml.safe_load((ROOT / "examples" / "sweeps" / f"{name}.yaml").read_text())
        for table, (ours, columns) in zip(content["tables"], pairs, strict=True):
            lower = {key.lower().replace("-span", ""): row["values"] for key, row in ours.items()}
            for arm, numbers in table["paper"].items():
                wanted = lower[arm.lower().replace("span", "")]
                assert [numbers[column] for column in columns] == wanted, (name, arm)
                compared += len(columns)
    assert compared == 5 + 4 * 7 + 4 + 4 * 7


def test_printed_averages_differ_from_the_columns_only_where_a_dagger_says_so() -> None:
    printed = {46.2: 46.83, 67.30: 67.45, 40.09: 38.52}
    found = {}
    for block in paper():
        for part in block["tables"]:
            for row in part["rows"].values():
                if "printed_average" in row:
                    found[row["printed_average"]] = round(sum(row["values"]) / len(row["values"]), 2)
    assert found == printed


def test_few_samples_and_a_shorter_grid_are_marked(report: Any, tmp_path: Path) -> None:
    found = task("meap_needle", rouge1_recall=0.5, strict_hit=0.0)
    for values in found["metrics"].values():
        values["n"] = 1
    head = {"average": 0.5, "longest": 0.4, "by_length": {"512": 0.6, "1024": 0.4}}
    page = report(write(tmp_path / "small", "needle", [found], headline=head))
    assert page.count("n = 1<") >= 2 and "up to 1,024 tokens" in page
    (row,) = [row for row in rows(page, "Needle in a haystack (Table 2") if row[0] == "small"]
    assert "±" not in row[1]
    head = {"average": 0.5, "longest": 0.4, "by_length": {"1024": 0.6, "32768": 0.4}}
    page = report(write(tmp_path / "whole", "needle", [task("meap_needle", rouge1_recall=0.5)], headline=head))
    (row,) = [row for row in rows(page, "Needle in a haystack (Table 2") if row[0] == "whole"]
    assert row[1:3] == ["50.00 ±1.00", "40.00"]
