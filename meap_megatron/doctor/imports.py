"""Import parts in a child process, so that one that crashes or hangs is a finding and not the end of the doctor."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable
from typing import IO, Any

NEEDS_TORCH = ("cuda", "nccl", "transformer_engine", "apex", "flash_attn", "megatron")

START = 30.0  # seconds more for the interpreter itself, which a cold network file system makes slow


def look(parts: Iterable[str], *, timeout: float) -> dict[str, dict[str, Any]]:
    """Return per part {"facts": {...}} or {"error": text}.

    One child imports all of them, which costs one import of torch; after a crash or a hang another one does the rest.

    Args:
        parts: names of `child.PARTS`, in the order in which they are imported.
        timeout: seconds that one part may take.
    """
    found: dict[str, dict[str, Any]] = {}
    left = list(parts)
    while left:
        begun = None
        with contextlib.closing(_answers(left, timeout=timeout)) as answers:
            for answer in answers:
                begun = answer["part"]
                if len(answer) > 1:
                    found[begun] = answer
                if begun == "torch" and "error" in answer:
                    break
        # Of one run, only the last part that was begun can be without an answer.
        if begun is None:
            return found | {name: {"error": "no child process could be started"} for name in left if name not in found}
        left = [name for name in left if name not in found]
        if "torch" in found and "error" in found["torch"]:
            for name in [name for name in left if name in NEEDS_TORCH]:
                found[name] = {"error": "not tried, because torch cannot be imported"}
                left.remove(name)
    return found


def _answers(parts: list[str], *, timeout: float) -> Generator[dict[str, Any]]:
    """Run one child; yield what it says, and an error for the part in which it ended."""
    command = [sys.executable, "-m", "meap_megatron.doctor.child", *parts]
    with tempfile.TemporaryFile("w+") as chatter:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=chatter, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        assert child.stdout is not None
        threading.Thread(target=_drain, args=(child.stdout, lines), daemon=True).start()
        begun = None
        try:
            wait = timeout + START
            while (line := lines.get(timeout=wait)) is not None:
                wait = timeout
                answer = json.loads(line)
                begun = answer["part"] if len(answer) == 1 else None
                yield answer
            status = child.wait(timeout=timeout)
            if begun is not None:
                yield {"part": begun, "error": f"the import ended the process: {_ending(status)}{_last_line(chatter)}"}
        except (queue.Empty, subprocess.TimeoutExpired):
            if begun is not None:
                yield {"part": begun, "error": f"the import did not end within {timeout:g} s{_last_line(chatter)}"}
        finally:
            _kill(child)


def _drain(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _kill(child: "subprocess.Popen[str]") -> None:
    """End the child and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _last_line(chatter: IO[str]) -> str:
    """Return the last line that the child wrote to its standard error, as an appendix to a message."""
    chatter.seek(0)
    lines = chatter.read().strip().splitlines()
    return f" ({lines[-1].strip()[:200]})" if lines else ""
