"""What one rank finds wrong is told to all before the run begins, and work of rank 0 is waited for without a time limit.

It uses the key-value store of torch.distributed's rendezvous, which the process group shares later, and no collective:
while rank 0 builds a large index no watchdog runs, and when rank 0 dies its connection breaks and the others end at once.
"""

import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from meap_megatron.errors import RunError, UserError, first_line

ARRIVAL = timedelta(minutes=10)
"""How long ranks may start one after the other."""
NOTICE_SECONDS = 15.0
"""After which a rank says what it waits for."""
WORK = timedelta(days=1)
"""How long rank 0 may work; a rank 0 that dies is noticed at once."""
GRACE_SECONDS = 15.0
"""How long a rank that found something wrong waits for the findings of ranks that have not come yet."""
MOST_NAMED = 8
"""Ranks whose findings one message holds."""

type Finding = tuple[int, str, UserError | RunError]
"""A rank, its host, and what it found wrong."""


class RollCall:
    """The ranks of one run, before they form a process group; with one process, nothing is exchanged."""

    def __init__(self, *, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._store: Any = None

    @property
    def store(self) -> Any:
        """The store, connected on first use; rank 0 serves it.

        Raises:
            RunError: not all ranks came.
        """
        if self._store is None:
            from torch import distributed

            waiting = threading.Timer(NOTICE_SECONDS, print, [self._waiting()], {"file": sys.stderr, "flush": True})
            waiting.daemon = True
            waiting.start()
            try:
                shared, _, _ = next(distributed.rendezvous("env://", self.rank, self.world_size, timeout=ARRIVAL))
            except distributed.DistError as error:
                where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                raise RunError(
                    f"rank {self.rank} of {self.world_size} on {socket.gethostname()} could not reach the rendezvous at "
                    f"{where}: {first_line(error)}"
                ) from None
            finally:
                waiting.cancel()
            self._store = distributed.PrefixStore("meap", shared)
        return self._store

    def _waiting(self) -> str:
        """Return what to say when other ranks are late: which variables said that there are any."""
        names = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS"]
        believed = " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        return (
            f"meap: rank {self.rank} has waited {NOTICE_SECONDS:.0f} s for the others of {self.world_size}; the environment "
            f"says {believed}. If this is to be one process, start it with `env RANK=0 WORLD_SIZE=1`; waiting for "
            f"{ARRIVAL.total_seconds() / 60:.0f} minutes"
        )

    def everyone[T](self, topic: str, work: Callable[[], T]) -> T:
        """Do `work` on every rank and return this rank's result, when all ranks have one.

        Args:
            topic: a name that no other call of the run has.

        Raises:
            UserError, RunError: on every rank, if a rank's work raised it or anything else; the message names rank and host.
        """
        if self.world_size == 1:
            return work()
        failure: UserError | RunError | None = None
        try:
            result = work()
        except Exception as error:  # a PermissionError or a stale file handle of one rank is news for all, too
            failure = as_ours(error)
        findings = self._exchange(topic, failure)
        if findings:
            raise joint_error(findings, world_size=self.world_size)
        return result

    def first(self, topic: str, work: Callable[[], str]) -> str:
        """Do `work` on rank 0 and return its result on every rank.

        Raises:
            UserError, RunError: on every rank, if it raised it or anything else.
        """
        if self.world_size == 1:
            return work()
        if self.rank == 0:
            try:
                result, failure = work(), None
            except Exception as error:
                result, failure = "", as_ours(error)
            self.store.set(f"{topic}/result", pickle.dumps((result, finding(0, failure) if failure else None)))
            if failure is not None:
                self._wait_for_listeners(topic)
                raise failure
            return result
        result, failed = pickle.loads(self._get(f"{topic}/result", WORK))
        if failed is not None:
            self.store.add(f"{topic}/heard", 1)
            raise joint_error([failed], world_size=self.world_size)
        return str(result)

    def _exchange(self, topic: str, failure: UserError | RunError | None) -> list[Finding]:
        """Return the findings of all ranks, the same list on every rank."""
        if failure is not None:
            number = self.store.add(f"{topic}/failures", 1)
            self.store.set(f"{topic}/failure/{number}", pickle.dumps(finding(self.rank, failure)))
        if self.store.add(f"{topic}/arrived", 1) == self.world_size:
            self._conclude(topic)
        elif failure is not None and not self._comes(f"{topic}/verdict", GRACE_SECONDS):
            self._conclude(topic)  # some rank is late, and what is wrong is known
        findings: list[Finding] = pickle.loads(self._get(f"{topic}/verdict", ARRIVAL))
        if findings:
            if self.rank == 0:
                self._wait_for_listeners(topic)
            else:
                self.store.add(f"{topic}/heard", 1)
        return findings

    def _conclude(self, topic: str) -> None:
        keys = [f"{topic}/failure/{i + 1}" for i in range(self.store.add(f"{topic}/failures", 0))]
        self.store.set(f"{topic}/verdict", pickle.dumps([pickle.loads(self._get(key, ARRIVAL)) for key in keys]))

    def _comes(self, key: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.store.check([key]):
                return True
            time.sleep(0.05)
        return False

    def _get(self, key: str, patience: timedelta) -> bytes:
        from torch import distributed

        try:
            self.store.wait([key], patience)
            return bytes(self.store.get(key))
        except distributed.DistError as error:
            raise RunError(
                f"rank {self.rank} on {socket.gethostname()} lost rank 0 or waited too long at the start of the run "
                f"({key}): {first_line(error)}"
            ) from None

    def _wait_for_listeners(self, topic: str) -> None:
        """Rank 0 serves the store: it stays until the others have heard."""
        deadline = time.monotonic() + GRACE_SECONDS
        while self.store.add(f"{topic}/heard", 0) < self.world_size - 1 and time.monotonic() < deadline:
            time.sleep(0.02)


def as_ours(error: Exception) -> UserError | RunError:
    """Return an error of ours, or what another one says as a `RunError`; --debug shows its traceback."""
    if isinstance(error, UserError | RunError):
        return error
    if os.environ.get("MEAP_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    return RunError(f"{type(error).__name__}: {error}")


def finding(rank: int, failure: UserError | RunError) -> Finding:
    """Return what a rank found wrong, as the others get it: rank, host, failure."""
    return rank, socket.gethostname(), failure


def joint_error(findings: list[Finding], *, world_size: int) -> UserError | RunError:
    """Return one error for the findings of several ranks, naming rank and host; `UserError` if all are about input."""
    kind = UserError if all(isinstance(failure, UserError) for _, _, failure in findings) else RunError
    if len({str(failure) for _, _, failure in findings}) == 1 and len(findings) == world_size:
        return findings[0][2]
    ordered = sorted(findings, key=lambda found: found[0])
    named = [failure.at(f"rank {rank} on {host}") for rank, host, failure in ordered[:MOST_NAMED]]
    if len(ordered) == 1:
        return named[0]
    listed = f", the first {MOST_NAMED} of them" if len(ordered) > MOST_NAMED else ""
    return kind(f"{len(ordered)} of {world_size} ranks cannot start{listed}:", parts=named)


_calls: dict[tuple[int, int], RollCall] = {}


def roll_call() -> RollCall:
    """Return the roll call of the rank that the environment names.

    It is kept as long as the process lives, so that rank 0 keeps serving the store.
    """
    place = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return _calls.setdefault(place, RollCall(rank=place[0], world_size=place[1]))


def stand_alone() -> None:
    """Let the rank that the environment names do without the others: in a rehearsal they do not exist."""
    place = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _calls[place] = RollCall(rank=place[0], world_size=1)
