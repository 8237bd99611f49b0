"""Processes of the checks: forks of one that has Megatron imported, or fresh interpreters where a fork will not do.

The script imports Megatron once and never touches CUDA itself, so that its forks can: a training run then starts in a
second instead of ten. A run on another device than the script's, and everything when CUDA does not work in a fork
(`use_fresh`), gets an interpreter of its own.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_warm_device: str | None = None
FRESH = "MEAP_GPU_CHECK_FRESH"
"""Set for this process and its children when forks cannot use CUDA."""
NO_ENGINE = "MEAP_GPU_CHECK_NO_ENGINE"
"""Set for this process and its children when Transformer Engine is not to be used; holds the reason."""
TORCH_ALONE = {NO_ENGINE: "hidden"}
"""Variables of a run in an interpreter of its own that is as if Transformer Engine were not installed."""


def warm(device: str) -> None:
    """Import Megatron for a device in this process."""
    global _warm_device
    from meap_megatron.errors import UserError
    from meap_megatron.launch import environment, runtime
    from meap_megatron.launch.named_settings import Settings
    from meap_megatron.training import platform
    from meap_megatron.training.pretrain import import_once

    if device == "cuda":
        # A run sets them before torch is imported; its forks find torch imported.
        os.environ.update(environment.defaults(Settings(table={}), os.environ))

    # Megatron and torch ask for a GPU while they are imported. Asked through NVML, that does not start CUDA, which a fork
    # would not survive. Only while importing: on a CPU it would let the trainer's `device_count` of one answer.
    asked = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"} if device == "cuda" else {}
    with _in_environment(asked):
        runtime.set_thread_policy()
        try:
            platform.prepare(device)
        except UserError as error:  # Transformer Engine is broken; all that needs torch alone can still be checked
            print(f"{error}; every check runs without it", flush=True)
            hide_engine(f"does not load: {error.__cause__ or error}")
            platform.prepare(device, engine_optional=True)
        import_once()
    _warm_device = device


def use_fresh() -> None:
    """Start interpreters instead of forks from now on."""
    os.environ[FRESH] = "1"


def hide_engine(reason: str) -> None:
    """Run everything on torch alone from now on, in interpreters of its own: this one may have imported the engine."""
    os.environ[NO_ENGINE] = reason
    use_fresh()


def start(
    function: Callable[..., None],
    *args: Any,
    device: str,
    log: Path,
    fresh: bool = False,
    environ: dict[str, str] | None = None,
) -> BaseProcess:
    """Start `function(*args)` in a process group of its own.

    Args:
        function: of a module, not a closure; its `SystemExit` is the exit status.
        args: that can be pickled.
        device: "cuda" or "cpu", for which Megatron is imported.
        log: gets stdout and stderr.
        fresh: an interpreter of its own even where a fork would do.
        environ: variables on top of this process's.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    method = "spawn" if fresh or os.environ.get(FRESH) or device != _warm_device else "fork"
    sys.stdout.flush()
    sys.stderr.flush()
    variables = dict(environ or {})
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=_be, args=(function, args, str(log), variables))
    with _in_environment(variables if method == "spawn" else {}):  # what is read while modules are imported
        process.start()
    return process  # type: ignore[no-any-return]


@contextlib.contextmanager
def _in_environment(variables: dict[str, str]) -> Any:
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _be(function: Callable[..., None], args: tuple[Any, ...], log: str, environ: dict[str, str]) -> None:
    """Become the process: streams, signals, environment, exit status."""
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.close(stream)
    os.environ.update(environ)
    # Processes of its own, such as loader workers, are forks, as in a run that a user starts; a spawned one would spawn.
    multiprocessing.set_start_method("fork", force=True)
    if os.environ.get(NO_ENGINE):
        sys.modules["transformer_engine"] = None  # type: ignore[assignment]
    try:
        function(*args)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Without exit handlers: neither a communicator nor loader workers may hold up the next check.
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(status)


def wait(process: BaseProcess, limit: float) -> int | None:
    """Wait for a process; return its status, or None after `limit` seconds, when its whole group is ended."""
    process.join(max(0.0, limit))
    if process.exitcode is None:
        end(process)
        return None
    return process.exitcode


def end(process: BaseProcess) -> None:
    """End a process, its process group, and the groups that its children have made."""
    pids = [process.pid, *descendants(process.pid or 0)]
    for pid in pids:
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError, TypeError):
                kill(pid, signal.SIGKILL)  # type: ignore[arg-type]
    process.join(10)


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below one, where /proc tells."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def wait_all(processes: dict[str, BaseProcess], limit: float) -> dict[str, int | None]:
    """Wait for several processes, `limit` seconds in all; return the status of each by name, None if it was ended."""
    deadline = time.monotonic() + limit
    return {name: wait(process, deadline - time.monotonic()) for name, process in processes.items()}
