"""`meap doctor` as a user and as a script calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.cli.main import main


def test_the_quick_report_has_every_part_and_imports_nothing(capsys, monkeypatch) -> None:
    monkeypatch.setattr("meap_megatron.doctor.imports.look", None)
    assert main(["doctor", "--quick"]) == 0
    text = capsys.readouterr().out
    headings = [line for line in text.splitlines() if line in ("needed", "makes GPU runs faster", "optional")]
    assert headings == ["needed", "makes GPU runs faster", "optional"]
    for name in ("Python", "torch", "Megatron", "native module", "Transformer Engine", "Apex", "CUDA", "gigatoken"):
        assert f"  {name}" in text
    assert "everything needed works" in text.splitlines()[-1]


def test_a_torch_that_crashes_is_reported_and_the_status_is_1(capsys, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torch.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    by_name = {finding["name"]: finding for finding in report["findings"]}
    assert report["works"] is False
    assert by_name["torch"]["state"] == "broken" and "SIGABRT" in by_name["torch"]["detail"]
    assert by_name["torch"]["cost"] and "pip install" in by_name["torch"]["fix"]
    assert by_name["Megatron"]["fails"] and by_name["native module"]["state"] == "ok"


def test_a_shared_folder_that_is_missing_makes_the_status_1_and_names_the_host(capsys, tmp_path: Path) -> None:
    assert main(["doctor", "--quick", "--shared", str(tmp_path)]) == 0
    assert main(["doctor", "--quick", "--shared", str(tmp_path / "none")]) == 1
    assert "is not a folder here" in capsys.readouterr().out


def test_under_srun_a_later_task_prints_one_line_with_its_host(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "7", "STEP_ID": "0", "PROCID": "3", "STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("socket.gethostname", lambda: "node3")
    assert main(["doctor", "--quick"]) == 0
    assert capsys.readouterr().out == "task 3 on node3: everything needed works\n"
    assert main(["doctor", "--quick", "--json"]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1 and json.loads(text)["host"] == "node3"


def test_a_limit_of_no_time_is_refused(capsys) -> None:
    assert main(["doctor", "--timeout", "0"]) == 2
    assert "--timeout 0" in capsys.readouterr().err


def test_the_tasks_of_a_job_step_meet_in_the_shared_folder(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "meap_megatron.cli.main",
        "doctor",
        "--quick",
        "--json",
        "--shared",
        str(tmp_path),
    ]
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "3"}
    tasks = [
        subprocess.Popen(
            command, env=os.environ | step | {"SLURM_PROCID": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(3)
    ]
    reports = [json.loads(task.communicate(timeout=200)[0]) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0]
    assert [report["task"] for report in reports] == [0, 1, 2]
    for report in reports:
        (found,) = [finding for finding in report["findings"] if finding["name"] == "shared folder"]
        assert found["state"] == "ok" and "files of 3 tasks on 1 hosts" in found["detail"]
    assert os.listdir(tmp_path) == []
