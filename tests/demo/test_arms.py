"""Processes side by side: an arm that fails is named, and none is left running."""

import sys
import time

import pytest

from meap_megatron.demo import arms
from meap_megatron.demo.arms import DemoArm, run_side_by_side
from meap_megatron.errors import RunError


def run(arm_list):
    lines = []
    run_side_by_side(arm_list, threads=1, show=lambda name, line: lines.append((name, line)))
    return lines


def script(monkeypatch):
    """Let an arm's first argument be a Python program instead of a recipe."""
    monkeypatch.setattr(arms, "command", lambda arm: [sys.executable, "-u", "-c", arm.arguments[0]])


def test_a_recipe_that_is_refused_ends_the_run_with_its_reason(tmp_path):
    arm = DemoArm(name="ntp", arguments=["train", str(tmp_path / "none.yaml")], log=tmp_path / "rank-0.log")
    with pytest.raises(RunError, match=r"the ntp run ended with status 2: cannot read recipe .*none\.yaml"):
        run([arm])


def test_the_log_of_the_arm_that_failed_is_named_and_the_other_arm_is_stopped(tmp_path, monkeypatch):
    script(monkeypatch)
    log = tmp_path / "rank-0.log"
    log.write_text("")
    slow = DemoArm(name="ntp", arguments=["import time; print('on', flush=True); time.sleep(60)"], log=tmp_path / "x")
    bad = DemoArm(name="meap", arguments=["import sys; print('ValueError: no'); sys.exit(3)"], log=log)
    began = time.monotonic()
    with pytest.raises(RunError) as caught:
        run([slow, bad])
    assert time.monotonic() - began < 30
    assert str(caught.value) == f"the meap run ended with status 3: ValueError: no\nfull log: {log}"


def test_every_line_but_progress_bars_is_passed_on_with_the_name_of_its_arm(tmp_path, monkeypatch):
    script(monkeypatch)
    program = "import sys; print('one'); sys.stderr.write('\\r 9%|# | 1/9\\r99%|##| 9/9\\n'); print('two')"
    arm_list = [DemoArm(name=name, arguments=[program], log=tmp_path / name) for name in ("a", "b")]
    assert sorted(run(arm_list)) == [("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")]


def test_an_interrupt_ends_the_children(tmp_path, monkeypatch):
    script(monkeypatch)
    started = []

    def interrupted(processes):
        started.extend(processes)
        raise KeyboardInterrupt

    monkeypatch.setattr(arms, "first_failure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([DemoArm(name="a", arguments=["import time; time.sleep(60)"], log=tmp_path / "a")])
    assert [process.poll() is not None for process in started] == [True]


def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    script(monkeypatch)
    monkeypatch.setattr(arms, "GRACE_SECONDS", 0.3)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on'); time.sleep(60)"
    deaf = DemoArm(name="deaf", arguments=[program], log=tmp_path / "a")
    waits = "import sys, time; time.sleep(2); sys.exit(1)"
    began = time.monotonic()
    with pytest.raises(RunError, match="the bad run ended with status 1\n"):
        run([deaf, DemoArm(name="bad", arguments=[waits], log=tmp_path / "b")])
    assert time.monotonic() - began < 30
