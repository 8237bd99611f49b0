"""The whole chain with the smoke plan: data, training, a killed trainer that goes on, scores, report."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import runs
from experiments.retrieval_small import __main__ as script
from experiments.retrieval_small import score
from tests.support.runs import meap, records, start
from tests.support.warm import WarmProcess

pytestmark = pytest.mark.slow


def test_a_killed_arm_goes_on_and_the_report_calls_a_smoke_run_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[WarmProcess] = []

    def launch(command: list[str], **rest: object) -> WarmProcess:
        started.append(start(*command[3:], MEAP_THREADS="1"))
        return started[-1]

    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(Popen=launch, DEVNULL=None))
    monkeypatch.setattr(
        score, "subprocess", SimpleNamespace(DEVNULL=None, run=lambda words, **rest: meap(*words[3:], check=False))
    )
    monkeypatch.setattr(runs, "git", lambda *words: "abc\n" if words[0] == "rev-parse" else "")

    out = tmp_path / "out"
    words = ["--smoke", "--out", str(out)]
    assert script.main(["trial", *words]) == 0
    assert "ratio-0.00-seed-901: 0." in capsys.readouterr().out

    first, second = out / "arms" / "ratio-0.00-seed-1", out / "arms" / "ratio-0.15-seed-1"
    scores = out / "record" / "scores"
    manifest = first / "run" / "iter_0000010" / "meap_manifest.json"

    def kill_after_the_first_checkpoint() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if manifest.exists() and '"complete": true' in manifest.read_text():
                os.killpg(started[-1].pid, signal.SIGKILL)
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill_after_the_first_checkpoint)
    killer.start()
    assert script.main(["run", *words]) == 1
    killer.join()
    assert "the same command goes on with it" in capsys.readouterr().err
    assert not scores.exists()

    assert script.main(["run", *words]) == 0
    begun = [record["step"] for record in records(first / "run" / "metrics.jsonl", "start")]
    assert len(begun) == 2 and begun[0] == 0 and begun[1] in (10, 20, 30)
    assert [record["step"] for record in records(first / "run" / "metrics.jsonl", "step")] == list(range(1, 41))
    found = json.loads((scores / "ratio-0.15-seed-1.json").read_text())
    assert [look["step"] for look in found["curve"]] == [10, 20, 30, 40]
    assert found["training"]["mask_fraction"] == pytest.approx(9 / 64)
    assert "largest difference" in found["export"]
    assert found["probes"]["distractors"]["questions"] == 16
    assert len(list((second / "run").glob("iter_*"))) == 1

    count = len(started)
    shutil.rmtree(out / "arms")  # another machine has the scores only
    assert script.main(["run", *words]) == 0
    assert len(started) == count  # finished arms are not started again
    assert script.main(["report", *words]) == 0
    assert (scores.parent / "table.md").read_text().startswith("**SMOKE RUN")
    assert json.loads((scores.parent / "results.json").read_text())["verdict"] is None
    assert (scores.parent / "curves.png").stat().st_size > 5000 and (scores.parent / "differences.png").exists()
