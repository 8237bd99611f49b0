"""A process that has imported Megatron and runs each `meap` command in a fork of itself: seconds instead of ten.

The command does what it would do in a process of its own (environment, folder, streams, signals, exit status are its
own); only the imports are shared. `python -m tests.support.warm ADDRESS DESCRIPTOR` is the server, `WarmProcess` the
client's side; `python -m tests.support.warm ADDRESS VERB ...` is the `meap` of a script.
With "python" as its first word it is not `meap` but the interpreter: `python -m MODULE`, `python -c CODE`, `python SCRIPT`.
The processes that a verb of `STARTING` starts are such forks too: `start_warm`.
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]


STARTING = {
    "convert": "meap_megatron.checkpoint.convert.verifying",
    "demo": "meap_megatron.demo.arms",
    "sweep": "meap_megatron.sweep.run",
}
"""Verbs that start processes, and where."""


class WarmProcess:
    """A running command; the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        words: list[str],
        *,
        environ: dict[str, str],
        stdout: IO[Any] | int,
        stderr: IO[Any] | int,
        cwd: Path = ROOT,
    ) -> None:
        self.returncode: int | None = None
        out, self.stdout = _open(stdout)
        write, self.stderr = (os.dup(out), None) if stderr == subprocess.STDOUT else _open(stderr)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server())
        request = json.dumps({"words": words, "environ": environ, "cwd": str(cwd)}).encode()
        socket.send_fds(self._connection, [len(request).to_bytes(4, "little")], [out, write])
        self._connection.sendall(request)
        os.close(out)
        os.close(write)
        self.pid = self._read_number()

    def _read_number(self) -> int:
        answer = self._connection.recv(8, socket.MSG_WAITALL)
        if len(answer) < 8:
            raise AssertionError("the warm process of the tests has died")
        return int.from_bytes(answer, "little", signed=True)

    def poll(self) -> int | None:
        """Return the exit status, minus the number of the signal that ended it, or None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = self._read_number()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("meap", timeout or 0)
            self.returncode = self._read_number()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it wrote to stderr once it has ended; it and its children are killed after `timeout` seconds."""
        timer = threading.Timer(timeout or 600, os.killpg, (self.pid, signal.SIGKILL))
        timer.start()
        try:
            said = self.stderr.read() if self.stderr else ""
            self.wait()
        finally:
            timer.cancel()
        return "", said

    def send_signal(self, number: int) -> None:
        """Send a signal to the command alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _open(stream: IO[Any] | int) -> tuple[int, IO[str] | None]:
    """Return a descriptor to write to, and what reads the other end if it is a pipe."""
    if stream == subprocess.PIPE:
        read, write = os.pipe()
        return write, os.fdopen(read)
    return os.dup(stream if isinstance(stream, int) else stream.fileno()), None


class WarmPopen(WarmProcess):
    """What `subprocess.Popen` starts with `python -m`, as such a fork."""

    __class_getitem__: Any = classmethod(types.GenericAlias)

    def __init__(
        self, command: list[str], *, stdout: Any = 1, stderr: Any = 2, env: dict[str, str] | None = None, **_: Any
    ) -> None:
        words = command[command.index("-m") + 1 :]
        super().__init__(
            words[1:] if words[0] == "meap_megatron.cli.main" else ["python", "-m", *words],
            environ=dict(env or os.environ),
            stdout=stdout,
            stderr=stderr,
            cwd=Path.cwd(),
        )


def start_warm(module: types.ModuleType) -> None:
    """Let a module of the package start its commands so, in this process."""
    vars(module)["subprocess"] = types.SimpleNamespace(**vars(subprocess) | {"Popen": WarmPopen})


forked_from: list[str] = []
"""In a server and its forks: its address."""


@cache
def server() -> str:
    """Start this test process's own server at its first use, unless this is a fork of one; return the address."""
    if forked_from:
        return forked_from[0]
    address = f"\0meap-tests-{os.getpid()}-{time.monotonic_ns()}"
    lifeline, kept = os.pipe()  # the server ends when `kept` closes, however this process ends
    command = [sys.executable, "-m", "tests.support.warm", address[1:], str(lifeline)]
    process = subprocess.Popen(command, cwd=ROOT, pass_fds=[lifeline], stdout=subprocess.PIPE)
    os.close(lifeline)
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise AssertionError("the warm process of the tests did not start")

    def end() -> None:
        os.close(kept)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()

    atexit.register(end)
    return address


def serve(address: str, lifeline: int) -> None:
    """Fork one command per connection until the lifeline closes."""
    from meap_megatron.launch import runtime
    from meap_megatron.training.pretrain import before_forks

    runtime.set_thread_policy()
    before_forks()

    forked_from.append(address)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    print("ready", flush=True)
    running: dict[int, tuple[int, socket.socket]] = {}  # descriptor of the process -> its id and the client
    while True:
        watched: list[Any] = [listener, lifeline, *running]
        ready, _, _ = select.select(watched, [], [])
        if lifeline in ready:
            for pid, _ in running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return
        for descriptor in ready:
            if descriptor in running:
                pid, client = running.pop(descriptor)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.close(descriptor)
                with contextlib.suppress(OSError):  # the test may not have waited for it
                    client.sendall(status.to_bytes(8, "little", signed=True))
                client.close()
        if listener in ready:
            client, _ = listener.accept()
            length, streams, _, _ = socket.recv_fds(client, 4, 2)
            request = json.loads(client.recv(int.from_bytes(length, "little"), socket.MSG_WAITALL))
            pid = os.fork()
            if pid == 0:
                be(request, streams, close=[listener.fileno(), lifeline, client.fileno(), *running])
            os.setpgid(pid, pid)  # here too: the client may signal the group before the child gets to it
            for stream in streams:
                os.close(stream)
            running[os.pidfd_open(pid)] = (pid, client)
            client.sendall(pid.to_bytes(8, "little", signed=True))


def be(request: dict[str, Any], streams: list[int], *, close: list[int]) -> None:
    """Become the command: never returns."""
    os.setpgid(0, 0)
    for target, stream in ((0, os.open(os.devnull, os.O_RDONLY)), (1, streams[0]), (2, streams[1])):
        os.dup2(stream, target)
        os.close(stream)
    for descriptor in close:
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the suite was started with `&`
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = ["meap", *request["words"]]
    os._exit(status_of(lambda: _main(request["words"])))


def _main(words: list[str]) -> int:
    if words[0] == "python":
        return interpret(words[1:])
    from meap_megatron.cli.main import main

    if words[0] in STARTING:
        start_warm(importlib.import_module(STARTING[words[0]]))
    return main(words)


def interpret(words: list[str]) -> int:
    """Do what the interpreter does with its words."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")
    return 0


def status_of(command: Callable[[], int]) -> int:
    """Run to the end as the interpreter would: exit status, traceback, exit handlers, flushed streams."""
    try:
        status = command()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    import multiprocessing.util

    multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def ask(address: str, words: list[str]) -> int:
    """Run a `meap` command in a fork of another process's server, for scripts; return its exit status."""
    forked_from.append(address)
    environ = dict(os.environ)
    return WarmProcess(words, environ=environ, stdout=sys.stdout, stderr=sys.stderr, cwd=Path.cwd()).wait()


if __name__ == "__main__":
    address, first, *others = "\0" + sys.argv[1], *sys.argv[2:]
    if first.isdecimal():
        serve(address, int(first))
    else:
        sys.exit(ask(address, [first, *others]))
