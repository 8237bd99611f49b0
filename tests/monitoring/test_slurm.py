"""`meap status --job` finds the run in SLURM's words, also with blanks and "=" in them, and tells waiting from dead."""

import json
import os
from pathlib import Path

import pytest

from meap_megatron.cli.main import main
from tests.monitoring.runs import write_run

ANSWER = """JobId=42 JobName=meap-pretrain
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=1:0
   RunTime=00:10:00 TimeLimit=1-00:00:00 TimeMin=N/A
   StartTime=2026-01-01T00:00:00 EndTime=2026-01-02T00:00:00 Deadline=N/A
   NodeList=node[1-4]
   Command=/home/a/pretrain.sbatch recipe.yaml save=old lr=1e-4 save=runs/x
   WorkDir={workdir}
   StdOut={workdir}/meap-pretrain-42.out
"""


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scontrol on the path that prints the file whose path is returned; 43 is not known."""
    program, answer = tmp_path / "bin" / "scontrol", tmp_path / "answer"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$3" = 42 ] && cat {answer} && exit\n'
        'echo "slurm_load_jobs error: Invalid job id specified" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return answer


@pytest.mark.parametrize(
    ("state", "trained", "said", "code"),
    [
        ("RUNNING", 60, "running", 0),
        ("PENDING", 60, "waiting", 0),
        ("PENDING", 0, None, 0),
        ("NODE_FAIL", 60, "running", 4),
        ("TIMEOUT", 100, "finished", 0),
        ("CANCELLED", 60, "running", 0),
    ],
)
def test_a_job_is_shown_with_its_run(
    scontrol: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    state: str,
    trained: int,
    said: str | None,
    code: int,
) -> None:
    scontrol.write_text(ANSWER.format(state=state, reason="None", workdir=tmp_path))
    if trained:
        write_run(tmp_path / "runs" / "x", [3.0] * trained, close=trained == 100)
    assert main(["status", "--job", "42", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found.get("state") == said
    assert (found["job"]["state"], found["job"]["restarts"], found["job"]["nodes"]) == (state, 2, "node[1-4]")
    assert found["job"]["run"] == str(tmp_path / "runs" / "x")


def test_what_slurm_does_not_know_is_refused_with_a_way_out(
    scontrol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--job", "43"]) == 2
    assert "it forgets jobs some minutes after their end" in capsys.readouterr().err
    scontrol.write_text(ANSWER.format(state="RUNNING", reason="None", workdir=tmp_path).replace("save=", "load="))
    assert main(["status", "--job", "42"]) == 2
    assert "no save=FOLDER" in capsys.readouterr().err
    scontrol.write_text("no such thing\n")
    assert main(["status", "--job", "42"]) == 1
