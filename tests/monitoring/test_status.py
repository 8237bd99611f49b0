"""A status is what the run's files say, on live, resumed, torn and finished runs; what is wrong is the exit status."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from meap_megatron.cli.main import main
from meap_megatron.monitoring.status import Status, look
from tests.monitoring.runs import append, write_run

NOISE = [3.0 + 0.01 * (step % 7) for step in range(60)]

QUIET = [3.0 + 0.001 * (step % 7) for step in range(60)]


def status(folder: Path, *, silent: float = 1.0, **more: Any) -> Status:
    """Read a run `silent` seconds after its last record."""
    written = (folder / "metrics.jsonl").stat().st_mtime
    return look(folder, now=written + silent, **more)


def test_a_run_under_way_shows_step_speed_and_time_left_by_the_clock(tmp_path: Path) -> None:
    found = status(write_run(tmp_path, NOISE, close=False))
    assert (found.state, found.step, found.train_steps, found.tokens) == ("running", 60, 100, 60_000)
    assert (found.loss, found.masked_loss) == (NOISE[-1], NOISE[-1] + 1.0)
    assert (found.tokens_per_second, found.seconds_per_step, found.eta_seconds) == (500.0, 2.5, 100.0)
    assert found.mfu == pytest.approx(0.15)
    assert (found.checkpoint, found.restarts, found.alerts, found.exit_status) == (None, [], [], 0)


def test_a_half_written_line_is_left_out_and_a_broken_one_before_it_named(tmp_path: Path) -> None:
    append(write_run(tmp_path, NOISE, close=False), '{"event": "step", "st')
    assert status(tmp_path).step == 60
    append(tmp_path, '\n{"event": "end", "step": 60}\n')
    with pytest.raises(Exception, match=r"metrics\.jsonl:62: not a record"):
        status(tmp_path)


def test_after_a_resume_a_step_counts_once_and_the_later_record_counts(tmp_path: Path) -> None:
    write_run(tmp_path, NOISE, close=False)
    resumed = {"event": "start", "step": 40, "run": {"train_iters": 200}}
    again = {"event": "step", "step": 41, "lm_loss": 2.5, "consumed_tokens": 41_000, "seconds": 3.0}
    append(tmp_path, resumed, again, again | {"lm_loss": 2.4})
    found = status(tmp_path)
    assert (found.step, found.train_steps, found.loss, found.restarts) == (41, 200, 2.4, [40])
    assert found.seconds_per_step == 3.0  # of the newest start, without the time in records


@pytest.mark.parametrize(
    ("losses", "last", "silent", "state", "code"),
    [
        ([*NOISE, float("nan")], None, 1.0, "running", 3),
        ([*NOISE, float("inf")], None, 1.0, "running", 3),
        (NOISE, {"event": "end", "step": 60, "status": 16}, 1.0, "failed", 3),
        (NOISE, {"event": "failed", "step": 60, "error": "RuntimeError: Unexpected result nan on rank 0"}, 1.0, "failed", 3),
        (NOISE, {"event": "failed", "step": 60, "error": "OSError: No space left"}, 1.0, "failed", 4),
        (NOISE, None, 601.0, "stalled", 5),
        (NOISE, None, 599.0, "running", 0),
        ([*NOISE, 3.4], None, 1.0, "running", 6),
        ([*NOISE, 3.4, *NOISE], None, 1.0, "finished", 6),
        ([*QUIET, 3.1], None, 1.0, "running", 0),  # above the noise, not by a twentieth
        (NOISE, {"event": "end", "step": 60, "status": 0}, 1e6, "stopped", 0),
        (NOISE + NOISE[:40], None, 1e6, "stalled", 5),  # at the last step, but never saved
        ([*NOISE, float("nan")], None, 601.0, "stalled", 3),
    ],
)  # fmt: skip
def test_what_is_wrong_is_the_exit_status(
    tmp_path: Path, losses: list[float], last: dict[str, Any] | None, silent: float, state: str, code: int
) -> None:
    write_run(tmp_path, losses, close=state == "finished", train_steps=len(losses) if state == "finished" else 100)
    if last:
        append(tmp_path, last)
    found = status(tmp_path, silent=silent)
    assert (found.state, found.exit_status) == (state, code)
    assert len(found.alerts) >= (code > 0)


def test_what_to_ignore_and_what_counts_as_stalled_can_be_said(tmp_path: Path) -> None:
    write_run(tmp_path, [*NOISE, 3.4], close=False)
    found = status(tmp_path, silent=20.0, stalled_after=10.0)
    assert [alert.name for alert in found.alerts] == ["stalled", "spike"]
    assert status(tmp_path, silent=20.0, stalled_after=10.0, ignore=["stalled"]).exit_status == 6
    queued = status(tmp_path, silent=1e6, waiting=True)
    assert (queued.state, [alert.name for alert in queued.alerts]) == ("waiting", ["spike"])


def test_the_terminal_shows_the_checkpoint_and_json_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path, NOISE, close=False)
    folder = tmp_path / "iter_0000050"
    folder.mkdir()
    manifest = {"iteration": 50, "complete": True, "files": {}, "format": 1, "written": "2023-11-14T22:13:20+00:00"}
    (folder / "meap_manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("50")
    (tmp_path / "iter_0000060").mkdir()
    (tmp_path / "iter_0000060" / "meap_manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    os.utime(tmp_path / "metrics.jsonl")
    assert main(["status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "step        60 of 100 (60.0%)   1 min 40 s left" in text
    assert "checkpoint  step 50   good" in text and "step 60 is not complete" in text
    assert main(["status", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["eta_seconds"], found["checkpoint"]["being_written"]) == (60, 100.0, 60)
    assert found["checkpoint"]["age_seconds"] > 0


def test_watching_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, NOISE)
    assert main(["status", str(tmp_path), "--watch", "--every", "0.01"]) == 0
    assert "stopped" in capsys.readouterr().out
    append(write_run(tmp_path / "bad", NOISE, close=False), {"event": "failed", "step": 60, "error": "E: x"})
    assert main(["status", str(tmp_path / "bad"), "--watch", "--json"]) == 4


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "it is empty" in capsys.readouterr().err
    write_run(tmp_path / "arm", NOISE)
    assert main(["status", str(tmp_path)]) == 2
    assert f"but runs: {tmp_path / 'arm'}" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no records" in capsys.readouterr().err


def test_the_report_counts_restarts_and_draws_each_step_once(tmp_path: Path) -> None:
    write_run(tmp_path, NOISE, close=False)
    again = {"event": "step", "step": 41, "lm_loss": 2.5, "consumed_tokens": 41_000, "seconds": 3.0}
    append(tmp_path, {"event": "start", "step": 40, "run": {"train_iters": 200}}, again, '{"event": "st')
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "MEAP training" in page and "41 of 200" in page
    assert page.count("restart from step 40") == 5  # loss, masked, other, gradient norm, throughput
