"""A piece of work in a fork of this process: Megatron is imported once, its globals and process groups are new each time."""

import contextlib
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meap_megatron.errors import RunError, UserError
from meap_megatron.launch.ranks import end_with, rank_environment

NO_PORT = 1
"""Nobody listens there: the neighbours of a rehearsed rank are on machines that do not exist."""


def in_fork(work: Callable[[], Any], *, rank: int, world: int, log: Path | None) -> Any:
    """Do `work` as one rank of a job, in a fork of this process; return its result, which can be pickled.

    Args:
        work: raises `UserError` or `RunError`; any other exception becomes a `RunError`.
        log: takes what it prints; None: the screen does.

    Raises:
        UserError, RunError: what `work` raised, or the fork died.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        environ = rank_environment(rank, world=world, port=NO_PORT, alone=True)
        _be(work, environ=environ, log=log, answer=writing, parent=parent)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as stream:
            content = stream.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if not content:
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        raise RunError(f"the rehearsed rank {how}" + (f"; what it printed: {tail(log)}" if log else ""))
    result = pickle.loads(content)
    if isinstance(result, UserError | RunError):
        raise result
    return result


def of_rank(rank: int, work: Callable[[], Any], *, log: Path | None, world: int) -> Any:
    """Do `in_fork` for one rank, and name it where it is refused or fails."""
    try:
        return in_fork(work, rank=rank, world=world, log=log)
    except UserError as error:
        raise error.at(f"rank {rank:,} of {world:,}") from None
    except RunError as error:
        hint = None if log is None else "see what the rank printed with --verbose"
        raise RunError(f"rank {rank:,} of {world:,}: {error.problem}", fix=error.fix or hint) from None


def tail(log: Path) -> str:
    """Return the last lines that were printed."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])


def _be(work: Callable[[], Any], *, environ: Mapping[str, str], log: Path | None, answer: int, parent: int) -> None:
    """Be the fork: never returns."""
    end_with(parent)
    os.environ.update(environ)
    if log is not None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
    try:
        result = work()
    except (UserError, RunError) as error:
        result = error
    except BaseException as error:  # also SystemExit, by which Megatron ends at times
        traceback.print_exc()
        result = RunError(f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError), os.fdopen(answer, "wb") as stream:
        pickle.dump(result, stream)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
