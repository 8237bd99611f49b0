"""benchmarks/compare.py names what became slower, and only that."""

import copy
import json

import pytest

from tests.benchmarks.scripts import load

compare = load("compare")
OLD = {
    "format": 1,
    "date": "2026-11-22 12:00 UTC",
    "commit": "aaaaaaa",
    "benchmarks": {
        "sample": {
            "arguments": [],
            "document": {
                "ratios": {"gpt_over_ours": 8.0, "ours_over_copy": 3.0, "official_over_gpt": 6.0},
                "lower_is_better": ["ours_over_copy"],
                "not_judged": ["official_over_gpt"],
            },
        },
        "sft": {"arguments": ["--quick"], "document": {"ratios": {"over_megatron": 375.0}}},
        "soak": {"arguments": [], "document": {}},
    },
}


def changed(benchmark="sample", **ratios):
    new = copy.deepcopy(OLD)
    new["commit"] = "bbbbbbb"
    new["benchmarks"][benchmark]["document"]["ratios"] |= ratios
    return new


@pytest.fixture
def run(tmp_path, capsys):
    def run(*results, words=()):
        paths = []
        for number, result in enumerate(results):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(result if isinstance(result, str) else json.dumps(result))
        status = compare.main([*map(str, paths), *words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def flagged(out):
    """Return the ratios whose line ends with a word, and the word."""
    return {
        line.split()[0]: line.split()[-1] for line in out.splitlines() if line.endswith(("slower", "faster", "gone"))
    }


def test_equal_results_are_not_slower(run):
    status, out, _ = run(OLD, changed())
    assert status == 0 and flagged(out) == {}
    assert "aaaaaaa (2026-11-22 12:00 UTC) -> bbbbbbb" in out and "0 of 3 ratios" in out


def test_a_ratio_that_falls_by_more_than_the_threshold_is_named(run):
    assert run(OLD, changed(gpt_over_ours=6.41))[0] == 0
    status, out, _ = run(OLD, changed(gpt_over_ours=6.39))
    assert status == 1 and flagged(out) == {"sample.gpt_over_ours": "slower"}
    assert "8.00" in out and "6.39" in out and "0.80x" in out


def test_where_lower_is_better_a_rise_is_slower_and_a_fall_is_faster(run):
    status, out, _ = run(OLD, changed(ours_over_copy=4.0))
    assert status == 1 and flagged(out) == {"sample.ours_over_copy": "slower"}
    status, out, _ = run(OLD, changed(ours_over_copy=2.0))
    assert status == 0 and flagged(out) == {"sample.ours_over_copy": "faster"}


def test_a_ratio_that_is_not_judged_may_be_anything(run):
    status, out, _ = run(OLD, changed(official_over_gpt=0.1))
    assert status == 0 and "official_over_gpt" not in out


def test_the_threshold_can_be_set(run):
    assert run(OLD, changed("sft", over_megatron=250.0), words=["--threshold", "2"])[0] == 0
    assert run(OLD, changed("sft", over_megatron=250.0), words=["--threshold", "1.4"])[0] == 1


def test_the_best_of_several_new_results_counts(run):
    slow, fast = changed(gpt_over_ours=5.0, ours_over_copy=3.1), changed(gpt_over_ours=7.9, ours_over_copy=9.0)
    assert run(OLD, slow)[0] == run(OLD, fast)[0] == 1
    assert run(OLD, slow, fast)[0] == 0


def test_a_benchmark_that_is_gone_is_named(run):
    new = changed()
    del new["benchmarks"]["sft"]
    status, out, _ = run(OLD, new)
    assert status == 1 and flagged(out) == {"sft.over_megatron": "gone"}


@pytest.mark.parametrize(
    "new, why",
    [
        ("{", "holds no results"),
        ("[]", "holds no results"),
        ('{"benchmarks": {}}', "holds no results"),
        ({**OLD, "format": 2}, "has format 2"),
        (changed(gpt_over_ours=float("nan")), "not a number above 0"),
        (changed(gpt_over_ours=0), "not a number above 0"),
        ({**OLD, "benchmarks": {"sft": {**OLD["benchmarks"]["sft"], "arguments": []}}}, "sft ran with no arguments"),
    ],
)
def test_what_is_no_pair_of_results_is_refused(run, new, why):
    status, out, err = run(OLD, new)
    assert status == 2 and out == "" and why in err


def test_a_missing_file_and_a_senseless_threshold_are_refused(run, tmp_path):
    assert compare.main([str(tmp_path / "none.json"), str(tmp_path / "none.json")]) == 2
    assert run(OLD, OLD, words=["--threshold", "0.5"])[0] == 2
