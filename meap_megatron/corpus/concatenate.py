"""Join the finished shards into one file, and hash it, while later shards are still being encoded.

The `.bin` of a dataset is its shards in order. Copied after the last one they would keep one core busy and all others
waiting, on a large machine for as long as the encoding took; a thread of the process that waits for the workers does it
meanwhile.
"""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from meap_megatron.atomic import disk_errors

COPY_BYTES = 2**22


class Joining:
    """A file that grows in a thread by the files it is given, in their order.

    Attributes:
        digest: SHA-256 of what was joined; complete after `finish`.
    """

    def __init__(self, target: Path) -> None:
        self.digest = hashlib.sha256()
        self._target = target
        self._copies: deque[Future[None]] = deque()  # those that are not known to have ended well
        with disk_errors(target):
            self._stream = target.open("wb")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="joining")

    def add(self, source: Path) -> None:
        """Append a complete file, later.

        Raises:
            RunError: the disk is full.
        """
        self._check()
        self._copies.append(self._thread.submit(self._append, source))

    def finish(self, final: Path) -> int:
        """Wait until all files are joined and on the disk, name the result `final`, and return its bytes.

        Raises:
            RunError: the disk is full.
        """
        self._thread.shutdown()
        self._check()
        self._stream.close()
        size = self._target.stat().st_size
        os.replace(self._target, final)
        return size

    def abandon(self) -> None:
        """End the thread and remove what it wrote, unless it was finished."""
        self._thread.shutdown(cancel_futures=True)
        with contextlib.suppress(OSError):  # the disk is full
            self._stream.close()
        self._target.unlink(missing_ok=True)

    def _check(self) -> None:
        with disk_errors(self._target):
            while self._copies and self._copies[0].done():
                self._copies[0].result()
                self._copies.popleft()

    def _append(self, source: Path) -> None:
        copy_hashed(source, self._stream, self.digest)
        # Now, beside the encoding: left to the end, the disk would have to write all of it then.
        self._stream.flush()
        os.fsync(self._stream.fileno())


def copy_hashed(
    source: Path, target: IO[bytes], digest: Any, *, copied: Callable[[int], None] = lambda size: None
) -> None:
    """Append a file to an open one and to a hash; `copied` is told of the bytes of each block."""
    with source.open("rb") as stream:
        while chunk := stream.read(COPY_BYTES):
            digest.update(chunk)
            target.write(chunk)
            copied(len(chunk))
