"""benchmarks/run.py collects the last line of every script, and names the scripts that fail."""

import json
import time

import pytest

from tests.benchmarks.scripts import FOLDER, load

run = load("run")
SCRIPTS = {
    "good": 'import sys, json\nprint("a table")\nprint(json.dumps({"ratios": {"a": 2.0}, "words": sys.argv[1:]}))',
    "broken": 'raise SystemExit("no data")',
    "silent": 'print("a table, and no document")',
    "endless": 'import subprocess, sys\nsubprocess.run([sys.executable, "-c", "import time; time.sleep(60)"])',
}


@pytest.fixture
def folder(tmp_path):
    for name, text in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_good_documents_are_kept_and_failures_named_and_a_hanging_script_is_ended(folder, capsys):
    began = time.monotonic()
    records, failed = run.run_all(run.scripts(folder), quick=True, limit=5.0)
    assert time.monotonic() - began < 40
    assert set(records) == {"good"}
    assert records["good"]["document"] == {"ratios": {"a": 2.0}, "words": ["--quick"]}
    assert records["good"]["arguments"] == ["--quick"]
    assert failed["broken"] == "exit status 1"
    assert failed["silent"].startswith("its last line is not a JSON document: 'a table")
    assert failed["endless"] == "ended after 5 s"
    shown = capsys.readouterr().out
    assert "a table" in shown and '"ratios"' not in shown


def test_no_script_starts_when_the_time_is_used_up(folder):
    records, failed = run.run_all({"good": folder / "good.py"}, quick=False, total=-1.0)
    assert records == {} and "not started" in failed["good"]


def test_the_results_land_in_one_file_that_compare_reads(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "HERE", folder)
    out = tmp_path / "results" / "new.json"
    assert run.main(["--only", "good", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["commit"] and results["failed"] == {} and results["quick"] is False
    assert results["benchmarks"]["good"]["document"]["words"] == []
    assert load("compare").main([str(out), str(out)]) == 0
    assert run.main(["--only", "good", "broken", "--out", str(out)]) == 1
    assert json.loads(out.read_text())["failed"] == {"broken": "exit status 1"}


def test_an_unknown_name_is_refused(capsys):
    assert run.main(["--only", "samples"]) == 2
    assert "no benchmark is called samples" in capsys.readouterr().err


def test_every_script_that_has_arguments_here_exists():
    assert set(run.ARGUMENTS) <= set(run.scripts(FOLDER))
    assert not run.NO_BENCHMARKS & set(run.scripts(FOLDER)) and "sample" in run.scripts(FOLDER)
