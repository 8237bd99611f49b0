"""What the batch scripts decide, with stand-ins for the programs of SLURM (`make slurm-test` has SLURM itself)."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.runs import ROOT

SCRIPTS = ROOT / "examples" / "slurm"
STAND_INS = {
    # Notes its words and what the tasks would see, then does what the test put into the file `train`.
    "srun": 'echo "srun $* MASTER_ADDR=$MASTER_ADDR END=$SLURM_JOB_END_TIME CPUS=$SRUN_CPUS_PER_TASK" >>calls\n. ./train',
    "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else echo "scontrol $*" >>calls; fi',
    "squeue": "echo 4000000000",
    "scancel": 'echo "scancel $*" >>calls; kill -TERM "$(cat srun.pid)"',
    "meap": "true",
    # The script waits here for SLURM to end it.
    "sleep": "exit 0",
}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs a batch script as SLURM would, in tmp_path."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    spool = tmp_path / "spool"
    spool.mkdir()

    def run_script(
        script: str, *words: str, train: str = "exit 0", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "train").write_text(train)
        copy = spool / "slurm_script"
        copy.write_bytes((SCRIPTS / script).read_bytes())
        slurm = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_CPUS_PER_TASK": "8",
        }
        return subprocess.run(
            ["bash", str(copy), *words],
            cwd=tmp_path,
            env=slurm | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_script


def calls(folder: Path) -> list[str]:
    """What the stand-ins were called with."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def reach(step: int, of: int = 400) -> str:
    """A training that writes what Megatron and the metrics write, up to a finished checkpoint."""
    start = json.dumps({"event": "start", "step": 0, "run": {"lr": 0.1, "train_iters": of, "seed": 1}})
    return f"mkdir -p run; echo '{start}' >>run/metrics.jsonl; echo {step} >run/latest_checkpointed_iteration.txt; "


def test_tasks_are_told_where_to_meet_and_when_the_job_ends(run: Run, tmp_path: Path) -> None:
    done = run("pretrain.sbatch", "recipe.yaml", "save=run", "lr=0.1", train=reach(400))
    assert (done.returncode, calls(tmp_path)) == (
        0,
        ["srun --kill-on-bad-exit=1 meap train recipe.yaml save=run lr=0.1 MASTER_ADDR=node7 END=4000000000 CPUS=8"],
    )
    assert "finished: run is at step 400 of 400" in done.stderr


def test_what_slurm_or_the_user_says_is_not_asked_again(run: Run, tmp_path: Path) -> None:
    run("sft.sbatch", "r.yaml", "save=run", train=reach(400), MASTER_ADDR="10.0.0.1", SLURM_JOB_END_TIME="4100000000")
    assert calls(tmp_path)[0].endswith("MASTER_ADDR=10.0.0.1 END=4100000000 CPUS=8")


def test_in_a_container_steps_run_through_pyxis(run: Run, tmp_path: Path) -> None:
    container = {"MEAP_CONTAINER_IMAGE": "meap.sqsh", "MEAP_CONTAINER_MOUNTS": "data:data"}
    run("pretrain.sbatch", "r.yaml", "save=run", train=reach(400), MEAP_SRUN_FLAGS="--mpi=none --label", **container)
    assert calls(tmp_path)[0].startswith(
        "srun --kill-on-bad-exit=1 --mpi=none --label --container-image=meap.sqsh "
        f"--container-workdir={tmp_path} --container-mounts=data:data meap train r.yaml save=run"
    )


def test_an_unfinished_run_is_requeued_and_one_that_gets_on_never_gives_up(run: Run, tmp_path: Path) -> None:
    for number in range(6):
        train = reach(10 * (number + 1)) + f"exit {number % 2}"
        done = run("pretrain.sbatch", "r.yaml", "save=run", train=train, SLURM_RESTART_COUNT=str(number))
        assert f"not finished: run is at step {10 * (number + 1)} of 400" in done.stderr
    assert calls(tmp_path).count("scontrol requeue 77") == 6


def test_restarts_without_progress_end_and_a_new_submission_counts_anew(run: Run, tmp_path: Path) -> None:
    def start(number: int) -> subprocess.CompletedProcess[str]:
        environ = {"SLURM_RESTART_COUNT": str(number)} if number else {}
        return run("pretrain.sbatch", "r.yaml", "save=run", train=reach(50) + "exit 1", **environ)

    started = [start(number) for number in range(5)]
    assert [done.returncode for done in started] == [
        0,
        0,
        0,
        0,
        1,
    ]  # the first reached step 50; then 3 restarts and no more
    assert "no progress in 3 restart(s): the newest checkpoint of run is still that of step 50" in started[-1].stderr
    assert calls(tmp_path).count("scontrol requeue 77") == 4
    assert start(0).returncode == 0


def test_a_restart_by_slurm_itself_counts_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "restarts.txt").write_text("3 0\n")
    done = run("pretrain.sbatch", "r.yaml", "save=run", SLURM_RESTART_COUNT="9")
    assert (done.returncode, calls(tmp_path)) == (1, [])


def test_refused_input_is_not_tried_again(run: Run, tmp_path: Path) -> None:
    done = run("pretrain.sbatch", "r.yaml", "save=run", train="exit 2")
    assert done.returncode == 2
    assert not any(call.startswith("scontrol") for call in calls(tmp_path))


def test_a_loss_that_is_not_finite_twice_at_one_step_is_not_tried_a_third_time(run: Run, tmp_path: Path) -> None:
    again, done = (run("pretrain.sbatch", "r.yaml", "save=run", train=f"exit {status}") for status in (16, 17))
    assert "asking SLURM to start" in again.stdout + again.stderr
    assert done.returncode == 1 and "not finite, a second time" in done.stderr


def test_a_cancelled_job_is_not_requeued_and_its_tasks_are_waited_for(run: Run, tmp_path: Path) -> None:
    train = reach(70) + "kill -TERM $PPID; /bin/sleep 0.5; echo saved >>calls; exit 0"
    done = run("pretrain.sbatch", "r.yaml", "save=run", train=train)
    assert done.returncode == 143
    assert calls(tmp_path)[-1] == "saved"
    assert "SLURM ends this job; run is at step 70 of 400" in done.stderr


def test_a_job_that_slurm_ends_at_its_time_limit_goes_on_in_a_new_start(run: Run, tmp_path: Path) -> None:
    train = reach(70) + "kill -TERM $PPID; exit 0"
    run("pretrain.sbatch", "r.yaml", "save=run", train=train, SLURM_JOB_END_TIME="1000")
    assert calls(tmp_path)[-1] == "scontrol requeue 77"


def test_the_warning_before_the_limit_reaches_the_tasks(run: Run, tmp_path: Path) -> None:
    train = (
        "echo $$ >srun.pid; trap 'echo 33 >run/latest_checkpointed_iteration.txt; exit 0' TERM; "
        + reach(5)
        + "kill -USR1 $PPID; for n in {1..100}; do /bin/sleep 0.1; done; exit 9"
    )
    done = run("pretrain.sbatch", "r.yaml", "save=run", train=train)
    assert "the time limit is near" in done.stderr
    assert "not finished: run is at step 33 of 400" in done.stderr
    assert calls(tmp_path)[1:] == ["scancel --signal=TERM 77", "scontrol requeue 77"]


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("pretrain.sbatch", [], "which recipe?"),
        ("sft.sbatch", ["r.yaml", "lr=1"], "say save=FOLDER"),
        ("evaluate.sbatch", [], "which suite?"),
        ("preprocess_array.sbatch", ["text", "a.jsonl"], "submit it as an array"),
        ("preprocess_array.sbatch", ["txt"], "must be text, sft or merge"),
        ("preprocess_array.sbatch", ["merge"], "which dataset?"),
    ],
)
def test_a_wrong_command_starts_nothing(run: Run, tmp_path: Path, script: str, words: list[str], says: str) -> None:
    done = run(script, *words)
    assert done.returncode == 2 and says in done.stderr
    assert calls(tmp_path) == []


def test_a_script_far_from_the_checkout_says_so(run: Run, tmp_path: Path) -> None:
    for script in ("pretrain.sbatch", "sft.sbatch", "evaluate.sbatch", "preprocess_array.sbatch"):
        done = run(script, "r.yaml", SLURM_SUBMIT_DIR=str(tmp_path))
        assert done.returncode == 2 and "set MEAP_HOME to it" in done.stderr


def test_an_environment_without_meap_is_named(run: Run, tmp_path: Path) -> None:
    done = run("evaluate.sbatch", "suite", MEAP_VENV=str(tmp_path / "none"))
    assert done.returncode == 2 and f"there is no meap in {tmp_path}/none/bin" in done.stderr


def test_the_words_of_evaluate_are_passed_on(run: Run, tmp_path: Path) -> None:
    done = run("evaluate.sbatch", "suite", "--model", "my model", train="exit 3")
    assert done.returncode == 3
    assert calls(tmp_path)[0].startswith("srun --kill-on-bad-exit=1 meap evaluate suite --model my model ")


def test_an_array_does_one_shard_per_task_and_must_have_no_gaps(run: Run, tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}
    done = run("preprocess_array.sbatch", "text", "a b.jsonl", **array, SLURM_ARRAY_TASK_MAX="3")
    assert done.returncode == 0
    assert "meap preprocess text a b.jsonl --shard 2/4 --resume " in calls(tmp_path)[0]
    done = run("preprocess_array.sbatch", "text", "a b.jsonl", **array, SLURM_ARRAY_TASK_MAX="6")
    assert done.returncode == 2 and "say --array=0-3" in done.stderr
