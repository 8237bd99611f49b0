"""What SLURM says of a job becomes ranks, a time to stop, and one W&B run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meap_megatron.errors import UserError
from meap_megatron.launch import slurm_time_limit, wandb_run
from meap_megatron.launch.launch import slurm_environment, tasks_per_node
from meap_megatron.launch.named_settings import of_command_line

WORDS = ["--save=runs/a"]
SAVE = of_command_line(WORDS)
JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": "100000"}


@pytest.mark.parametrize(
    ("text", "counts"),
    [("1", [1]), ("8(x2)", [8, 8]), ("4(x2),3", [4, 4, 3]), ("2,1(x3),2", [2, 1, 1, 1, 2]), ("16(x12)", [16] * 12)],
)
def test_a_count_of_tasks_is_read_for_every_node(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_seven_tasks_on_three_unequal_nodes_are_seven_ranks() -> None:
    nodes = [(0, 3), (1, 3), (2, 1)]
    seen = []
    rank = 0
    for node, tasks in nodes:
        for local in range(tasks):
            slurm = {
                "SLURM_PROCID": str(rank),
                "SLURM_NTASKS": "7",
                "SLURM_LOCALID": str(local),
                "SLURM_NODEID": str(node),
                "SLURM_JOB_ID": "24001",
                "SLURM_STEP_TASKS_PER_NODE": "3(x2),1",
                "SLURM_TASKS_PER_NODE": "8(x3)",
            }
            found = slurm_environment(slurm, "first")
            seen.append((found["RANK"], found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]))
            assert found["WORLD_SIZE"] == "7"
            assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("first", "20001")
            rank += 1
    assert seen == [
        ("0", "0", "3"),
        ("1", "1", "3"),
        ("2", "2", "3"),
        ("3", "0", "3"),
        ("4", "1", "3"),
        ("5", "2", "3"),
        ("6", "0", "1"),
    ]


def test_a_master_that_the_batch_script_named_is_kept() -> None:
    slurm = {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "1",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
    }
    found = slurm_environment(slurm, "node1")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "29500")


def test_a_run_stops_a_margin_before_the_end_of_its_job() -> None:
    two_hours_before = 100_000 - 7200
    assert slurm_time_limit.job_flags(SAVE, JOB, now=two_hours_before) == [
        "--exit-signal-handler",
        "--exit-duration-in-mins=115",
    ]
    assert slurm_time_limit.job_flags(SAVE, JOB | {"MEAP_EXIT_MARGIN": "600"}, now=two_hours_before)[-1].endswith(
        "=110"
    )


def test_minutes_are_rounded_down_so_that_the_margin_is_kept() -> None:
    assert slurm_time_limit.minutes_to_run(JOB | {"MEAP_EXIT_MARGIN": "30"}, now=100_000 - 120) == 1
    assert slurm_time_limit.minutes_to_run(JOB | {"MEAP_EXIT_MARGIN": "61"}, now=100_000 - 120) is None
    assert slurm_time_limit.minutes_to_run(JOB | {"MEAP_EXIT_MARGIN": "0"}, now=100_000 - 120) == 2


def test_a_short_job_keeps_three_quarters_of_its_time() -> None:
    assert slurm_time_limit.minutes_to_run(JOB, now=100_000 - 600) == 7  # 450 s
    assert slurm_time_limit.minutes_to_run(JOB, now=100_000 - 3600) == 55  # 300 s are less than a quarter


@pytest.mark.parametrize("end", ["", "NONE", "N/A"])
def test_a_job_without_an_end_still_saves_at_a_signal(end: str) -> None:
    job = {"SLURM_JOB_ID": "12", "SLURM_JOB_END_TIME": end}
    assert slurm_time_limit.job_flags(SAVE, job, now=0) == ["--exit-signal-handler"]


def test_outside_a_job_there_is_no_end_and_without_a_folder_nothing_to_save() -> None:
    assert slurm_time_limit.job_flags(SAVE, {}, now=0) == ["--exit-signal-handler"]
    assert slurm_time_limit.job_flags(of_command_line(["--seed=1"]), JOB, now=0) == []


def test_a_shorter_duration_on_the_command_line_is_kept_and_a_longer_one_is_not() -> None:
    now = 100_000 - 7200
    assert slurm_time_limit.job_flags(of_command_line([*WORDS, "--exit-duration-in-mins=20"]), JOB, now=now) == [
        "--exit-signal-handler"
    ]
    assert slurm_time_limit.job_flags(of_command_line([*WORDS, "--exit-duration-in-mins", "200"]), JOB, now=now)[
        -1
    ] == ("--exit-duration-in-mins=115")


def test_a_margin_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="MEAP_EXIT_MARGIN=5m must be a whole number of seconds"):
        slurm_time_limit.job_flags(SAVE, JOB | {"MEAP_EXIT_MARGIN": "5m"}, now=0)


def test_every_start_of_a_folder_names_one_wandb_run(tmp_path: Path) -> None:
    argv = [f"--save={tmp_path / 'run'}", "--wandb-project=p"]
    first = wandb_run.environment(of_command_line(argv), {})
    assert first == wandb_run.environment(of_command_line(argv), {}) | {"WANDB_RESUME": "allow"}
    assert (tmp_path / "run" / "wandb_run_id").read_text() == first["WANDB_RUN_ID"] + "\n"
    other = wandb_run.environment(of_command_line([f"--save={tmp_path / 'other'}", "--wandb-project=p"]), {})
    assert other["WANDB_RUN_ID"] != first["WANDB_RUN_ID"]


def test_only_the_rank_that_logs_makes_the_wandb_run(tmp_path: Path) -> None:
    argv = [f"--save={tmp_path}", "--wandb-project=p"]
    assert wandb_run.environment(of_command_line(argv), {"RANK": "0", "WORLD_SIZE": "2"}) == {}
    assert not list(tmp_path.iterdir())
    assert "WANDB_RUN_ID" in wandb_run.environment(of_command_line(argv), {"RANK": "1", "WORLD_SIZE": "2"})


def test_without_wandb_or_with_an_id_of_the_users_nothing_is_set(tmp_path: Path) -> None:
    assert wandb_run.environment(of_command_line([f"--save={tmp_path}"]), {}) == {}
    assert (
        wandb_run.environment(
            of_command_line([f"--save={tmp_path}", "--wandb-project=p"]),
            {"WANDB_RUN_ID": "mine", "WANDB_API_KEY": "k"},
        )
        == {}
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="wandb_run_id"):
        wandb_run.run_id(tmp_path / "file" / "run")


def test_wandb_itself_takes_the_id(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    code = "import wandb; run = wandb.init(project='p', mode='offline'); print('ID', run.id, run.settings.resume)"
    environ = wandb_run.environment(of_command_line([f"--save={tmp_path}", "--wandb-project=p"]), {})
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environ | {"WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"ID {environ['WANDB_RUN_ID']} allow" in done.stdout
