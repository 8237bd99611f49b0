"""Processes that encode shards. A worker that dies ends the run with an error that names it; nothing waits for it.

Each worker has its own pipe, and the parent waits for pipes and process ends together: a shared queue would stay
silent for ever when a worker is killed for its memory.
"""

import contextlib
import ctypes
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from meap_megatron.corpus.encode import forget
from meap_megatron.corpus.shard import Advance, Shard, ShardEncoder, ShardResult
from meap_megatron.errors import RunError, UserError

Numbered = tuple[int, Shard]


def available_cpus() -> int:
    """Return the CPUs this process may use: the smallest of affinity, control group and SLURM's allotment."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    if (allotted := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        counts.append(int(allotted))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            counts.append(-(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, min(counts))


def run_shards(
    encoder: ShardEncoder,
    shards: Iterator[Numbered],
    *,
    workers: int,
    advance: Callable[[Advance], None],
    finished: Callable[[ShardResult], None],
) -> None:
    """Encode shards, in this process when one worker is enough, else in `workers` processes.

    Args:
        encoder: encodes each, once it is loaded.
        shards: (number, chunks) of the shards still to do; the next one is asked for when a process is free.
        workers: number of processes.
        advance: called in this process with each step of progress.
        finished: called in this process when a shard's files are complete.

    Raises:
        UserError: from a worker, about the input.
        RunError: from a worker, or a worker died.
    """
    if workers <= 1:
        for index, (number, shard) in enumerate(shards):
            if index == 0:
                encoder.load()
            finished(encoder.run(number, shard, advance))
        return
    forget()
    with _one_thread_each():
        pool = [_Worker(index, encoder) for index in range(workers)]
    try:
        _drive(pool, shards, advance, finished)
    finally:
        for worker in pool:
            worker.stop()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keep NumPy in the processes that are started from making a thread per CPU each, for products nobody asks for."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _drive(
    pool: list["_Worker"],
    waiting: Iterator[Numbered],
    advance: Callable[[Advance], None],
    finished: Callable[[ShardResult], None],
) -> None:
    for worker, task in zip(pool, waiting, strict=False):
        worker.give(task)
    while busy := [worker for worker in pool if worker.task is not None]:
        ready = multiprocessing.connection.wait(
            [worker.pipe for worker in busy] + [worker.process.sentinel for worker in busy]
        )
        for worker in busy:
            if worker.pipe not in ready and worker.process.sentinel not in ready:
                continue
            message = worker.receive()
            if isinstance(message, Advance):
                advance(message)
            elif isinstance(message, ShardResult):
                worker.task = None
                finished(message)
                for following in itertools.islice(waiting, 1):
                    worker.give(following)
            else:
                raise message


class _Worker:
    """The parent's view of one process."""

    def __init__(self, index: int, encoder: ShardEncoder) -> None:
        # spawn: a fork of a process that has used gigatoken's or tokenizers' thread pool may hang.
        context = multiprocessing.get_context("spawn")
        self.index = index
        self.task: Numbered | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, encoder, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: Numbered) -> None:
        self.task = task
        try:
            self.pipe.send(task)
        except OSError:
            raise self.death() from None

    def receive(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            raise self.death() from None

    def death(self) -> RunError:
        self.process.join(5)
        code = self.process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
        hint = "; out of memory? try fewer --workers" if code == -signal.SIGKILL else ""
        chunks = self.task[1] if self.task else ()
        where = f" while reading {chunks[0].file.path}" if chunks else ""
        return RunError(
            f"worker {self.index} (process {self.process.pid}) {how}{where}{hint}; finished shards are kept",
            fix="continue with the same command and --resume",
        )

    def stop(self) -> None:
        self.pipe.close()
        if self.task is not None:
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(pipe: Connection, encoder: ShardEncoder, parent: int) -> None:
    """Body of a worker process: take shards until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan continues after kill -9 of the parent
        if os.getppid() != parent:
            return
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        encoder.load()
        while True:
            number, shard = pipe.recv()
            pipe.send(encoder.run(number, shard, pipe.send))
    except EOFError:
        return
    except (UserError, RunError) as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(RunError(f"a worker failed: {type(error).__name__}: {error}"))
