"""What one rank finds wrong is raised on all of them, and nobody waits for a rank that has died."""

import errno
import multiprocessing
import os
import signal
import socket
import time
from datetime import timedelta

import pytest
import torch.distributed  # once, before the ranks are forked

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch.runtime import free_port
from meap_megatron.training import startup_sync

FORK = multiprocessing.get_context("fork")
HOST = socket.gethostname()


def as_ranks(work, *, world_size: int = 4, timeout: float = 120.0) -> dict[int, tuple]:
    """Run `work(rank, roll_call)` in one process per rank; return rank -> (what it returned or raised, seconds)."""
    port, answers = free_port(), FORK.Queue()

    def be(rank: int) -> None:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
        began = time.monotonic()
        try:
            answer = work(rank, startup_sync.roll_call())
        except (UserError, RunError) as error:
            answer = (type(error).__name__, str(error))
        answers.put((rank, answer, time.monotonic() - began))

    ranks = [FORK.Process(target=be, args=(rank,)) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout)
    assert not any(process.is_alive() for process in ranks)
    found = {}
    while not answers.empty():
        rank, answer, seconds = answers.get()
        found[rank] = (answer, seconds)
    return found


def answers_of(found: dict[int, tuple]) -> list:
    return [found[rank][0] for rank in sorted(found)]


def test_what_one_rank_finds_is_raised_on_all_with_its_rank_and_host():
    def work(rank, call):
        def check():
            if rank == 2:
                raise UserError("data/x.idx does not exist")
            return rank

        assert call.everyone("before", lambda: rank) == rank
        return call.everyone("data", check)

    expected = ("UserError", f"rank 2 on {HOST}: data/x.idx does not exist")
    assert answers_of(as_ranks(work)) == [expected] * 4


def test_what_all_find_is_said_once_and_different_findings_are_listed():
    def work(rank, call):
        def check():
            raise UserError("nothing there", fix="look") if rank < 3 else RunError("disk full")

        def same():
            raise UserError("nothing there")

        try:
            call.everyone("same", same)
        except UserError as error:
            assert str(error) == "nothing there"
        return call.everyone("different", check)

    lines = [f"  {rank + 1}. rank {rank} on {HOST}: nothing there; look" for rank in range(3)]
    lines = ["4 of 4 ranks cannot start:", *lines, f"  4. rank 3 on {HOST}: disk full"]
    assert answers_of(as_ranks(work)) == [("RunError", "\n".join(lines))] * 4


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_an_error_of_the_file_system_on_one_rank_is_news_for_all(number):
    def work(rank, call):
        def check():
            if rank == 1:
                raise OSError(number, os.strerror(number), "/shared/data.idx")

        def first():
            raise OSError(number, os.strerror(number), "/shared/run")

        try:
            call.everyone("data", check)
        except RunError as error:
            assert "rank 1 on" in str(error) and "/shared/data.idx" in str(error)
        return call.first("resume", first)

    found = as_ranks(work)
    assert all(kind == "RunError" and "/shared/run" in message for (kind, message), _ in found.values())
    assert len(found) == 4 and max(seconds for _, seconds in found.values()) < 60


def test_a_rank_that_does_not_come_does_not_keep_the_others_from_hearing(monkeypatch):
    monkeypatch.setattr(startup_sync, "GRACE_SECONDS", 1.0)
    heard = FORK.Semaphore(0)

    def work(rank, call):
        def check():
            if rank == 1:
                raise UserError("no such folder")

        call.everyone("all are here", lambda: None)
        if rank == 3:
            return "late" if all(heard.acquire(timeout=60) for _ in range(3)) else "first"
        try:
            return call.everyone("data", check)
        finally:
            heard.release()

    assert answers_of(as_ranks(work)) == [*[("UserError", f"rank 1 on {HOST}: no such folder")] * 3, "late"]


def test_the_work_of_rank_0_is_waited_for_and_its_result_and_its_failure_reach_all():
    def work(rank, call):
        def slow():
            assert rank == 0
            time.sleep(1)
            return "built"

        def fail():
            raise RunError("disk full")

        assert call.first("index", slow) == "built"
        return call.first("again", fail)

    there = f"rank 0 on {HOST}: disk full"
    assert answers_of(as_ranks(work)) == [("RunError", "disk full"), *[("RunError", there)] * 3]


def test_nobody_waits_for_a_rank_0_that_has_died():
    def work(rank, call):
        def die():
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)

        call.everyone("all are here", lambda: None)
        return call.first("index", die)

    found = as_ranks(work)
    assert sorted(found) == [1, 2, 3]
    for (kind, message), seconds in found.values():
        assert kind == "RunError" and "lost rank 0" in message
        assert seconds < 10


def test_the_process_group_is_formed_afterwards_at_the_same_address():
    def work(rank, call):
        call.everyone("data", lambda: None)
        torch.distributed.init_process_group("gloo")
        total = torch.tensor([rank])
        torch.distributed.all_reduce(total)
        again = call.everyone("later", lambda: int(total))
        torch.distributed.destroy_process_group()
        return again

    assert answers_of(as_ranks(work)) == [6] * 4


def test_one_process_exchanges_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    call = startup_sync.roll_call()
    assert call.everyone("data", lambda: 5) == 5
    assert call.first("index", lambda: "x") == "x"
    with pytest.raises(UserError, match="^wrong$"):
        call.everyone("data", lambda: (_ for _ in ()).throw(UserError("wrong")))


@pytest.mark.parametrize(("text", "said"), [("", "DistNetworkError"), ("refused\nat c10d", "refused")])
def test_a_rendezvous_that_fails_is_named_in_one_line_even_where_torch_says_nothing(
    monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise torch.distributed.DistNetworkError(text)

    monkeypatch.setattr(torch.distributed, "rendezvous", fail)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(RunError) as caught:
        _ = startup_sync.RollCall(rank=1, world_size=2).store
    assert str(caught.value) == f"rank 1 of 2 on {HOST} could not reach the rendezvous at 127.0.0.1:29500: {said}"


def test_a_rank_that_waits_says_which_variables_it_believed_and_how_to_run_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """WORLD_SIZE=4 is left over in the environment of a pod: nobody else will ever come."""
    monkeypatch.setattr(startup_sync, "NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(startup_sync, "ARRIVAL", timedelta(seconds=1))
    for name in ("SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    port = str(free_port())
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=rf"rank 1 of 4 on .* could not reach the rendezvous at 127.0.0.1:{port}: .+"):
        _ = startup_sync.RollCall(rank=1, world_size=4).store
    said = capsys.readouterr().err
    assert f"says RANK=1 WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}." in said
    assert "start it with `env RANK=0 WORLD_SIZE=1`" in said
