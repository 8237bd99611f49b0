"""`make slurm-test`: the scripts of examples/slurm, as they stand, under a real SLURM of two nodes on this machine.

Tiny models on a CPU, one task per node. Not run here, because it needs what this machine lacks: containers (pyxis), GPUs,
more than one machine. Nothing is left running, also after a failure or Ctrl-C.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from meap_megatron.training.metrics import read_metrics
from tests.slurm.cluster import Cluster, install, send
from tests.support.conversations import docstring_rows, write_alpaca
from tests.support.corpus import library_texts, write_byte_tokenizer, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
CPU_TASK = "--ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1".split()
STEPS = 240
MODEL = (
    "device=cpu num_layers=2 hidden_size=64 ffn_hidden_size=176 seq_length=64 max_position_embeddings=64 "
    "global_batch_size=8 micro_batch_size=2 eval_iters=1 eval_interval=100 log_interval=50"
).split()
EXACT = ("lm_loss", "masked_loss", "other_loss", "mask_fraction", "learning_rate", "grad_norm", "consumed_tokens")
"""Fields of a step record that an interruption must not change in any bit."""


class Bench:
    """A cluster with a work folder, and what a user does with it: submit, look, signal."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.work = cluster, cluster.folder / "work"
        self.work.mkdir()
        self.began = time.monotonic()

    def submit(self, script: str, *options: str, words: list[str], **environ: str) -> str:
        """Submit a script of examples/slurm from the work folder; return the job's number."""
        environ = {"MEAP_HOME": str(ROOT), "OMP_NUM_THREADS": "1", "MEAP_VENV": sys.prefix} | environ
        return self.cluster.run(
            "sbatch",
            "--parsable",
            *options,
            ROOT / "examples" / "slurm" / script,
            *words,
            cwd=self.work,
            environ=environ,
        )

    def job(self, job: str) -> dict[str, str]:
        """Return what `scontrol show job` says."""
        text = self.cluster.run("scontrol", "show", "job", job, "-o").splitlines()[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def output(self, job: str) -> str:
        """Return what the job has printed."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.work.glob(f"*-{job}*.out")))

    def steps(self, run: str) -> list[dict[str, Any]]:
        """Return the step records of a run."""
        path = self.work / "runs" / run / "metrics.jsonl"
        return [record for record in read_metrics(path) if record["event"] == "step"] if path.exists() else []

    def newest_step(self, run: str) -> int:
        """Return the newest step of a run, 0 before the first."""
        steps = self.steps(run)
        return steps[-1]["step"] if steps else 0

    def wait(self, job: str, what: str, done: Callable[[], Any], *, seconds: float = 300) -> None:
        """Wait until `done` holds; fail with the job's output if it does not, or if the job ends before."""
        deadline = time.monotonic() + seconds
        while not done():
            state = self.job(job)["JobState"]
            if time.monotonic() > deadline or (
                state in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") and not done()
            ):
                raise AssertionError(f"job {job} ({state}): {what} did not come\n{self.output(job)}")
            time.sleep(0.2)

    def end(self, job: str, state: str, *, seconds: float = 300) -> dict[str, str]:
        """Wait until a job is over, check how it ended, and return what is known of it."""
        deadline = time.monotonic() + seconds
        while (now := self.job(job))["JobState"] not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"):
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} is still {now['JobState']}\n{self.output(job)}")
            time.sleep(0.2)
        assert now["JobState"] == state, f"job {job} is {now['JobState']}, not {state}\n{self.output(job)}"
        return now

    def starts(self, job: str, number: int) -> None:
        """Wait until the training of a job runs in its start of this number."""
        self.wait(job, f"start {number}", lambda: self.output(job).count("continues from step") >= number)

    def signal(self, job: str, number: int) -> None:
        """Send a signal to the training processes of a job, as the machine would, not through SLURM."""
        for pid in self.cluster.tasks(job).values():
            send(pid, number)

    def time_limit(self, job: str, minutes: int) -> None:
        """Change the time limit of a job, as an administrator may."""
        self.cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def step_ends(self, job: str, number: int) -> None:
        """Wait until the training of this start has failed and all its ranks are gone."""
        said = "the step ended with status"
        self.wait(job, f"end of start {number}", lambda: self.output(job).count(said) >= number)

    def says(self, job: str, *texts: str) -> None:
        """Check that a job has printed each text (regular expressions)."""
        for text in texts:
            assert re.search(text, self.output(job)), f"job {job} does not say {text!r}\n{self.output(job)}"

    def report(self, text: str) -> None:
        """Print what holds, with the time since the cluster stood."""
        print(f"  {time.monotonic() - self.began:4.0f} s  {text}", flush=True)


def make_data(bench: Bench) -> None:
    """preprocess_array.sbatch: two tasks, then the merge, equal to one run; text and conversations."""
    work, script, cpu = bench.work, "preprocess_array.sbatch", "--cpus-per-task=1"
    write_byte_tokenizer(work / "tokenizer")
    texts, rows = library_texts(1_200_000), docstring_rows(400)
    for part in range(4):
        write_jsonl(work / f"part{part}.jsonl", texts[part::4])
        write_alpaca(work / f"alpaca{part}.json", rows[part::4])
    jobs = {
        "text": "text part*.jsonl --tokenizer tokenizer --shard-size 100K".split(),
        "sft": "sft alpaca*.json --tokenizer tokenizer --template alpaca --max-length 257 --shard-size 20K".split(),
    }
    merges = []
    for kind, words in jobs.items():
        array = bench.submit(script, cpu, "--array=0-1", words=[*words, "--output", f"data/{kind}"])
        merges.append(bench.submit(script, cpu, f"--dependency=afterok:{array}", words=["merge", f"data/{kind}"]))
    meap = (sys.executable, "-m", "meap_megatron.cli.main")
    for kind, words in jobs.items():
        bench.cluster.run(*meap, "preprocess", *words, "--output", f"whole/{kind}", cwd=work)
    for merge in merges:
        bench.end(merge, "COMPLETED")
    for name in ("text.bin", "text.idx", "sft.bin", "sft.idx", "sft.roles.bin", "sft.roles.idx"):
        assert (work / "data" / name).read_bytes() == (work / "whole" / name).read_bytes(), name
    for shard in work.glob("data/*.shard-*.bin"):
        assert shard.stat().st_size > 0, shard
    gap = bench.submit(script, cpu, "--array=1-2", words=[*jobs["text"], "--output", "data/gap"])
    bench.wait(gap, "refusal of array 1-2", lambda: "its length is the number of shards" in bench.output(gap))
    bench.report("preprocess_array.sbatch: 2 tasks and a merge give the bytes of one run, for text and conversations")


def pretrain(bench: Bench, run: str, *options: str, **environ: str) -> str:
    """Submit pretrain.sbatch on two nodes."""
    words = [str(ROOT / "examples/recipes/tiny_cpu_meap.yaml"), *MODEL, "data_path=data/text", f"save=runs/{run}"]
    words += [f"train_iters={STEPS}", "save_interval=100"]
    return bench.submit("pretrain.sbatch", "--nodes=2", *CPU_TASK, *options, words=words, **environ)


def uninterrupted(bench: Bench) -> None:
    """The run that all others are compared with."""
    job = pretrain(bench, "whole", "--time=30")
    bench.end(job, "COMPLETED")
    assert [record["step"] for record in bench.steps("whole")] == list(range(1, STEPS + 1))
    bench.says(job, f"finished: runs/whole is at step {STEPS} of {STEPS}")
    bench.report(f"pretrain.sbatch: {STEPS} steps on 2 nodes, uninterrupted, finished")


def interrupted(bench: Bench) -> str:
    """A job that is requeued, is warned, and is then paused until its time is over; returns its number."""
    job = pretrain(bench, "cut", "--time=30", "--signal=B:USR1@5", MEAP_EXIT_MARGIN="510")
    bench.wait(job, "step 30", lambda: bench.newest_step("cut") >= 30)
    bench.cluster.run("scontrol", "requeue", job)
    bench.starts(job, 2)
    at = int(re.findall(r"continues from step (\d+)", bench.output(job))[-1])
    assert at >= 30 and at % 100 != 0, at
    bench.report(f"scontrol requeue: saved at step {at} within KillWait, started again by SLURM")
    bench.wait(job, "step 90", lambda: bench.newest_step("cut") >= 90)
    bench.cluster.run("scancel", "--batch", "--signal=USR1", job)
    bench.wait(job, "end of start 2", lambda: "asking SLURM to start job" in bench.output(job))
    assert saved_at(bench, job) == bench.newest_step("cut")
    bench.says(job, "the time limit is near")
    bench.report(f"USR1 to the batch script: saved at step {saved_at(bench, job)}, requeued by the script")

    bench.wait(job, "requeue", lambda: bench.job(job)["JobState"] == "PENDING")
    bench.time_limit(job, 10)  # less the margin: stop after one minute
    at = saved_at(bench, job)
    bench.wait(job, "start 3", lambda: bench.newest_step("cut") > at)
    bench.signal(job, signal.SIGSTOP)  # its time passes without work for the processor
    return job


def saved_at(bench: Bench, job: str) -> int:
    """Return the step of which the script last said that the run is at."""
    return int(re.findall(r"runs/\w+ is at step (\d+)", bench.output(job))[-1])


def time_runs_out(bench: Bench, job: str) -> None:
    """The paused job continues, finds its time over, saves, and is requeued to the end; no bit differs."""
    time.sleep(max(0.0, 62 - age(bench.cluster.tasks(job)[0])))
    before = bench.newest_step("cut")
    bench.signal(job, signal.SIGCONT)
    bench.wait(job, "end of start 3", lambda: bench.output(job).count("asking SLURM to start job") >= 2)
    at = saved_at(bench, job)
    assert before <= at < STEPS, (before, at)
    bench.says(job, r"meap: job \d+ ends at .*; this run saves and stops after")
    log = (bench.work / "runs/cut/logs/rank-0.log").read_text()
    assert re.search(r"exiting program after [\d.]+ minutes", log), log[-2000:]
    bench.report(f"time limit of 10 min, margin 510 s: saved and stopped at step {at} after a minute, requeued")

    bench.wait(job, "requeue", lambda: bench.job(job)["JobState"] == "PENDING")
    bench.time_limit(job, 30)
    ended = bench.end(job, "COMPLETED")
    bench.says(job, f"finished: runs/cut is at step {STEPS} of {STEPS}")
    whole, cut = bench.steps("whole"), bench.steps("cut")
    assert [record["step"] for record in cut] == list(range(1, STEPS + 1))
    for a, b in zip(whole, cut, strict=True):
        assert [a[field] for field in EXACT] == [b[field] for field in EXACT], (a, b)
    check_tensorboard(bench.work / "runs/cut/tensorboard")
    bench.report(
        f"finished at start {int(ended['Restarts']) + 1}: all {STEPS} steps equal the uninterrupted run bit for bit"
    )


def age(pid: int) -> float:
    """Return how many seconds ago a process started."""
    began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - began


def check_tensorboard(folder: Path) -> None:
    """All steps of all starts are in one TensorBoard folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    assert {event.step for event in events.Scalars("lm loss")} == set(range(1, STEPS + 1))


def finished_stops(bench: Bench) -> None:
    """The same command once more: nothing to do, no restart."""
    job = pretrain(bench, "cut", "--time=30")
    assert bench.end(job, "COMPLETED")["Restarts"] == "0"
    assert len(bench.steps("cut")) == STEPS
    bench.says(job, f"finished: runs/cut is at step {STEPS}")
    bench.report("a finished run that is submitted again ends at once with status 0")


def stuck_stops(bench: Bench) -> None:
    """A job whose rank 1 dies before the first checkpoint at every start: all ranks end, and after one restart it stops."""
    job = pretrain(bench, "stuck", "--time=30", "--job-name=stuck", MEAP_MAX_RESTARTS="1")
    bench.wait(job, "step 5", lambda: bench.newest_step("stuck") >= 5)
    send(bench.cluster.tasks(job)[1], signal.SIGKILL)
    killed = time.monotonic()
    bench.step_ends(job, 1)
    seconds = time.monotonic() - killed
    bench.says(job, r"srun: error: 127.0.0.2: task 1: Killed", "not finished: runs/stuck is at step 0")
    bench.report(f"SIGKILL of rank 1: all ranks ended {seconds:.1f} s later, rank and host named, job requeued")

    bench.starts(job, 2)
    bench.wait(job, "rank 1", lambda: 1 in bench.cluster.tasks(job))
    send(bench.cluster.tasks(job)[1], signal.SIGKILL)
    bench.step_ends(job, 2)
    ended = bench.end(job, "FAILED")
    assert (ended["Restarts"], ended["ExitCode"]) == ("1", "1:0"), ended
    bench.says(job, r"no progress in 1 restart\(s\): the newest checkpoint of runs/stuck is still that of step 0")
    bench.report("1 restart without progress (MEAP_MAX_RESTARTS=1): the job fails and says where it stands")


def refusals(bench: Bench) -> None:
    """Wrong input is refused once, not requeued."""
    recipe = str(ROOT / "examples/recipes/tiny_cpu_meap.yaml")
    wrong = {
        "no recipe": ("pretrain.sbatch", [], "which recipe"),
        "no save": ("sft.sbatch", [recipe], "say save=FOLDER"),
        "unknown key": (
            "pretrain.sbatch",
            [recipe, "save=runs/wrong", "no_such_key=1"],
            "trying again would not help",
        ),
        "no suite": ("evaluate.sbatch", [], "which suite"),
    }
    jobs = {name: bench.submit(script, *CPU_TASK, words=words) for name, (script, words, _) in wrong.items()}
    jobs["no checkout"] = bench.submit("pretrain.sbatch", *CPU_TASK, words=[recipe], MEAP_HOME="/nowhere")
    for name, job in jobs.items():
        ended = bench.end(job, "FAILED")
        assert (ended["ExitCode"], ended["Restarts"]) == ("2:0", "0"), (name, ended)
        bench.says(job, wrong[name][2] if name in wrong else "set MEAP_HOME")
    bench.report(f"{len(jobs)} wrong commands refused with status 2, none requeued")


def fine_tune(bench: Bench) -> None:
    """sft.sbatch from the pre-trained checkpoint; SLURM's own warning before the time limit ends its first start."""
    words = [str(ROOT / "examples/recipes/tiny_cpu_sft_meap.yaml"), *MODEL, "data_path=data/sft", "save=runs/sft"]
    words += ["pretrained_checkpoint=runs/whole", "train_iters=12", "save_interval=50", "eval_iters=0"]
    words += ["seq_length=256", "max_position_embeddings=256", "global_batch_size=4"]
    options = ["--nodes=2", *CPU_TASK, "--time=30", "--signal=B:USR1@10"]
    job = bench.submit("sft.sbatch", *options, words=words)
    bench.wait(job, "step 1", lambda: bench.newest_step("sft") >= 1)
    bench.signal(job, signal.SIGSTOP)
    minutes, seconds = map(int, bench.job(job)["RunTime"].split(":")[-2:])
    bench.time_limit(job, minutes + (1 if seconds < 40 else 2))
    bench.wait(job, "SLURM's warning", lambda: "the time limit is near" in bench.output(job))
    bench.signal(job, signal.SIGCONT)
    bench.wait(job, "end of start 1", lambda: "asking SLURM to start job" in bench.output(job))
    bench.wait(job, "requeue", lambda: bench.job(job)["JobState"] == "PENDING")
    bench.time_limit(job, 30)
    ended = bench.end(job, "COMPLETED")
    bench.says(job, "not finished: runs/sft is at step [1-9]", "finished: runs/sft is at step 12 of 12")
    assert [record["step"] for record in bench.steps("sft")] == list(range(1, 13))
    bench.report(
        f"sft.sbatch: warned by SLURM before its time limit, saved, finished at start {int(ended['Restarts']) + 1}"
    )


def main() -> int:
    """Run all scenarios; 0 if all hold."""
    install()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    began = time.monotonic()
    with Cluster() as cluster:
        print(f"slurm-test: {cluster.run('sinfo', '-V')}, 2 nodes on this machine", flush=True)
        bench = Bench(cluster)
        make_data(bench)
        uninterrupted(bench)
        refusals(bench)
        job = interrupted(bench)
        stuck_stops(bench)
        fine_tune(bench)
        time_runs_out(bench, job)
        finished_stops(bench)
    print(f"slurm-test: passed in {time.monotonic() - began:.0f} s; all that was started is stopped")
    print("not run: containers (pyxis), GPUs, several machines, evaluate.sbatch beyond its refusal", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
