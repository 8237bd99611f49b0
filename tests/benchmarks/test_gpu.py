"""`make gpu-check`: every check runs in tiny form on a CPU, and what is known is on disk, within the budget, and resumed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import catalogue, page, process, results, schedule, speed
from benchmarks.gpu.figure import Figure
from benchmarks.gpu.session import NotApplicable, Session

ROOT = Path(__file__).resolve().parents[2]


def gpu_check(*words, timeout=560):
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu_check")
    done = gpu_check("--device", "cpu", "--quick", "--out", out)
    return done, out, json.loads((out / "results.json").read_text())


def test_every_check_passes_on_a_cpu_or_says_why_it_means_nothing_there(quick):
    done, _, found = quick
    statuses = {name: one["status"] for name, one in found["checks"].items()}
    assert done.returncode == 0, done.stdout + done.stderr + json.dumps(found)[-3000:]
    assert list(statuses) == list(catalogue.CHECKS)
    inapplicable = {name: found["checks"][name]["reason"] for name in statuses if statuses[name] != "passed"}
    gpu_only = {name for name in catalogue.CHECKS if "fp8" in name} | {"fusions"}
    assert set(inapplicable) - {"answers"} == gpu_only | {"fine_tuning"}  # answers: without the extra [eval]
    assert all("not applicable on cpu" in inapplicable[name] for name in gpu_only)
    assert "--model" in inapplicable["fine_tuning"]


def test_correctness_is_judged_on_a_cpu_too(quick):
    _, _, found = quick
    judged = {
        name: {one["name"] for one in check["figures"] if one["verdict"] == "passed"}
        for name, check in found["checks"].items()
    }
    assert "CPU bf16: masked loss" in judged["parity"]
    assert {"fp32: leak between segments", "fp32: gradients"} <= judged["packed"]
    assert "fp32: interrupted resume matches to the bit" in judged["resume"]
    assert "resumed after step" in judged["whole_path"]
    ratio = next(one for one in found["checks"]["ratio_1.1b"]["figures"] if one["name"].startswith("MEAP / NTP"))
    assert ratio["value"] > 0 and ratio["expected"] == "", "no speed is judged on a CPU"


def test_a_second_start_runs_nothing_again(quick):
    _, out, before = quick
    began = time.monotonic()
    done = gpu_check("--device", "cpu", "--quick", "--out", out)
    assert done.returncode == 0 and time.monotonic() - began < 10
    after = json.loads((out / "results.json").read_text())
    assert after == before


def test_results_of_another_device_are_not_mixed_in(quick):
    _, out, _ = quick
    done = gpu_check("--device", "cpu", "--out", out)
    assert done.returncode == 2 and "quick=True" in done.stderr and "--out" in done.stderr


def test_the_page_is_filled_from_the_results(quick, tmp_path):
    _, out, found = quick
    target = tmp_path / "gpu.md"
    target.write_text(f"# Title\n\n{page.BEGIN}\nstale table\n{page.END}\n\nThe end.\n")
    done = gpu_check("--out", out, "--page", target)
    filled = target.read_text()
    assert done.returncode == 0, done.stderr
    assert filled.startswith("# Title") and filled.endswith("The end.\n") and "stale table" not in filled
    assert "| interrupted resume matches | fp32 yes |" in filled
    assert "not measured: no card" not in filled
    assert page.fill(filled, found) == filled


@pytest.mark.parametrize(
    "words, why",
    [
        (["--only", "speed"], "unknown check: speed; there are machine"),
        (["--model", "/nowhere"], "not a Hugging Face folder"),
        (["--seconds", "0"], "more than 0"),
        (["--page", "x.md", "--out", "/nowhere"], "run the checks first"),
    ],
)
def test_input_that_makes_no_sense_is_refused_before_anything_runs(words, why, tmp_path, capsys):
    from benchmarks.gpu.__main__ import main

    assert main(["--device", "cpu", "--quick", *([] if "--out" in words else ["--out", str(tmp_path)]), *words]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        ({"at_most": 1e-4}, (0.0, 1e-4), (2e-4, float("nan"), None, "much")),
        ({"at_least": 45_000.0, "target": True}, (45_000.0, 50_000), (44_999.0, float("inf"), None)),
        ({"at_least": 0.99, "at_most": 1.01}, (1.0, 0.99), (0.98, 1.02)),
        ({"equals": 0.0}, (0.0, 0), (1e-30, None)),
        ({"equals": True}, (True,), (False, None)),
    ],
)
def test_a_figure_that_breaks_its_rule_or_is_missing_does_not_pass(rule, good, bad):
    words = ("missed", "met") if rule.get("target") else ("failed", "passed")
    assert {Figure(name="f", value=value, **rule).verdict for value in good} == {words[1]}
    assert {Figure(name="f", value=value, **rule).verdict for value in bad} == {words[0]}
    assert Figure(name="f", value=None).verdict == ""


def test_a_missed_target_and_a_broken_rule_are_told_apart():
    met, missed = ({"verdict": word} for word in ("met", "missed"))
    assert results.judge([met]) == "passed"
    assert results.judge([met, missed]) == "target missed"
    assert results.judge([missed, {"verdict": "failed"}]) == "failed"


def passes(session):
    session.add("value", 1.0, at_most=2.0)


def breaks_a_rule(session):
    session.add("value", 3.0, at_most=2.0)


def raises(session):
    session.add("before", 1.0)
    raise ValueError("no such kernel")


def does_not_apply(session):
    raise NotApplicable("not applicable on cpu: no kernels")


def dies(session):
    import os

    os._exit(7)


def hangs(session):
    session.add("before", 1.0)
    time.sleep(60)


class Impatient(catalogue.Check):
    limit = 1.0


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run made-up checks by the real schedule."""
    monkeypatch.setattr(process, "warm", lambda device: None)
    monkeypatch.setattr(process, "_warm_device", "cpu")
    monkeypatch.setattr(schedule, "prepare", lambda budget: None)

    def run(checks, *, seconds=100.0, quick=True):
        monkeypatch.setattr(schedule, "CHECKS", checks)
        found = results.Results(tmp_path / "out", device="cpu", quick=quick)
        budget = schedule.Budget(
            out=tmp_path / "out", work=tmp_path, device="cpu", quick=quick, model=None, seconds=seconds, jobs=2
        )
        schedule.run_all(found.left(list(checks), again=False), budget, found)
        return json.loads((tmp_path / "out" / "results.json").read_text())["checks"]

    return run


def check(function, *, kind=catalogue.Check, seconds=1.0):
    return kind(letter="x", title="", run=function, seconds=seconds)


def test_a_check_that_fails_does_not_stop_the_others(run, capsys):
    functions = (breaks_a_rule, raises, dies, does_not_apply, passes)
    found = run(
        {function.__name__: check(function) for function in functions} | {"late": check(hangs, kind=Impatient)}
    )
    statuses = {name: one["status"] for name, one in found.items()}
    assert statuses == {
        "breaks_a_rule": "failed", "raises": "failed", "dies": "failed", "does_not_apply": "not applicable",
        "passes": "passed", "late": "timed out",
    }  # fmt: skip
    assert "no such kernel" in found["raises"]["reason"] and "status 7" in found["dies"]["reason"]
    assert found["late"]["figures"][0]["name"] == "before", "what a check found before its limit is kept"
    assert found["raises"]["figures"][0]["name"] == "before"


def test_what_does_not_fit_into_the_budget_is_skipped_named_and_run_at_the_next_start(run, tmp_path):
    checks = {"long": check(passes, seconds=500.0), "short": check(passes, seconds=1.0)}
    found = run(checks, quick=False)
    assert found["long"]["status"] == "skipped" and "500 s" in found["long"]["reason"]
    assert found["short"]["status"] == "passed"
    found = run(checks, quick=False, seconds=1000.0)
    assert {one["status"] for one in found.values()} == {"passed"} and "reason" not in found["long"]


def test_a_check_that_was_cut_off_with_the_script_is_run_again(tmp_path):
    found = results.Results(tmp_path, device="cuda", quick=False)
    for name, status in (("a", "passed"), ("b", "running"), ("c", "failed"), ("d", "timed out")):
        found.note(name, status=status)
    found = results.Results(tmp_path, device="cuda", quick=False)
    assert found.left(["a", "b", "c", "d", "e"], again=False) == ["b", "d", "e"]
    assert found.left(["a", "b"], again=True) == ["a", "b"]


def test_what_is_timed_runs_alone():
    budget = schedule.Budget(out=ROOT, work=ROOT, device="cuda", quick=False, model=None, seconds=1.0, jobs=2)
    running = {"parity": (None, 0.0)}
    assert schedule.may_start("packed", running, budget)
    assert not schedule.may_start("ratio_1.1b", running, budget)
    assert not schedule.may_start("packed", {"ratio_1.1b": (None, 0.0)}, budget)
    assert not schedule.may_start("resume", {**running, "packed": (None, 0.0)}, budget)


def test_the_figures_to_reach_apply_to_an_h100_and_to_nothing_else(tmp_path):
    from benchmarks.gpu.session import Session

    def judged(gpu, *, quick=False):
        session = Session(tmp_path, tmp_path, name="machine", device="cuda", quick=quick, model=None)
        session.detail("machine", {"gpu": gpu})
        return session.is_h100

    assert judged("NVIDIA H100 80GB HBM3") and judged("NVIDIA H200")
    assert not judged("NVIDIA A100-SXM4-80GB") and not judged(None) and not judged("NVIDIA H100", quick=True)


def test_the_most_valuable_checks_fit_into_nine_minutes_on_four_processes():
    """The catalogue's own estimates: correctness side by side, then the pair that the project's claim rests on."""
    checks = catalogue.CHECKS
    side_by_side = [one.seconds for one in checks.values() if not one.alone]
    before = list(checks)[: list(checks).index("throughput_0.5b_bf16")]
    alone = sum(checks[name].seconds for name in before if checks[name].alone)
    assert max(side_by_side) + sum(side_by_side) / 4 + alone < 540 - 60


def test_two_runs_in_turns_use_the_batch_of_one_alone():
    for size in speed.SIZES:
        micro, count = speed.batch(size)
        halved, doubled = speed.batch(size, halved=True)
        assert halved * doubled == micro * count and halved * 2 == micro


def test_the_page_in_the_documentation_is_what_the_script_makes():
    text = page.PAGE.read_text(encoding="utf-8")
    results = json.loads(page.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert page.fill(text, results) == text, "docs/benchmarks/gpu.json holds the results of the page"
    for goal in speed.TOKENS_PER_SECOND.values():
        assert f"{goal:,.0f}" in text


def say_whether_the_engine_is_there(out):
    from meap_megatron.launch import runtime

    Path(out).write_text(str(runtime.is_importable("transformer_engine")))


@pytest.mark.parametrize("said, there", [("loads", "True"), ("does not run: no kernel image is available", "False")])
def test_an_engine_that_does_not_work_on_the_card_is_hidden_from_every_other_check(said, there, tmp_path, monkeypatch):
    package = tmp_path / "site" / "transformer_engine"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in (process.FRESH, process.NO_ENGINE):  # set below by the schedule, for its children
        monkeypatch.setenv(name, "")
    found = results.Results(tmp_path / "out", device="cuda", quick=True)
    found.checks["machine"] = {"detail": {"machine": {"engine": said}}}
    schedule.use_fresh_if_needed(found)
    assert bool(os.environ[process.NO_ENGINE]) == (there == "False")
    started = process.start(
        say_whether_the_engine_is_there, tmp_path / "answer", device="cpu", log=tmp_path / "log", fresh=True
    )
    assert process.wait(started, 60) == 0, (tmp_path / "log").read_text()
    assert (tmp_path / "answer").read_text() == there


def test_a_card_gets_sizes_that_its_fp8_formats_take_in_tiny_form_too(tmp_path):
    from benchmarks.gpu.trainer import settings
    from meap_megatron.launch import precision

    session = Session(tmp_path, tmp_path, name="parity", device="cuda", quick=True, model=None)
    sizes = {key: int(value) for key, value in (one.split("=") for one in settings(session)) if value.isdigit()}
    for name in ("fp8-delayed", "fp8-tensorwise", "fp8-blockwise"):
        precision.check(sizes | {"group_query_attention": True} | precision.PRECISIONS[name])


@pytest.mark.parametrize("compiler, words", [("gcc", []), ("none", ["disable_jit_fuser=true"])])
def test_without_a_c_compiler_no_run_on_the_card_compiles(compiler, words, tmp_path, monkeypatch):
    from benchmarks.gpu import trainer
    from benchmarks.gpu.session import record_path, write_json

    write_json(record_path(tmp_path, "machine"), {"detail": {"machine": {"compiler": compiler}}})
    seen = []
    monkeypatch.setattr(process, "start", lambda function, argv, *rest, **options: seen.append(argv))
    session = Session(tmp_path, tmp_path, name="whole_path", device="cuda", quick=True, model=None)
    trainer.train(session, "run", "train_iters=4")
    assert [word for word in seen[0] if word.startswith("disable_jit_fuser")] == words


def test_on_a_card_torch_alone_means_that_transformer_engine_is_hidden(tmp_path, monkeypatch):
    from benchmarks.gpu import parity, trainer

    session = Session(tmp_path, tmp_path, name="parity", device="cuda", quick=True, model=None)
    started = []
    monkeypatch.setattr(process, "start", lambda *args, **options: started.append(options))
    ways = parity.ways(session)
    assert set(ways) == {"GPU fp32, torch only", "GPU bf16, torch only"}, "without an engine nothing else"
    for way in ways.values():
        trainer.train(session, "run", *way.options, environ=way.environ)
    assert all(one["fresh"] and one["environ"][process.NO_ENGINE] for one in started)


def test_the_model_of_packed_rows_has_gradients_of_its_own_with_transformer_engine(monkeypatch):
    from benchmarks.gpu import packed
    from meap_megatron.training import platform

    monkeypatch.setattr(platform, "is_importable", lambda name: True)
    flags = [*packed.MODEL, *platform.flags_for("cuda", packed.MODEL)]
    assert flags.count("--no-gradient-accumulation-fusion") == 1
