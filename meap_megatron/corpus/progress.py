"""One line on stderr: documents per second, megabytes of text per second, time left. Readable in a log file too."""

import sys
import time
from typing import TextIO

from meap_megatron.corpus.shard import Advance
from meap_megatron.formats import clock_time

EVERY, EVERY_ON_A_TERMINAL = 10.0, 0.2  # seconds between lines


class Progress:
    """Collect progress and print it: rewritten in place on a terminal, a line every 10 seconds elsewhere."""

    def __init__(
        self, total_bytes: int, *, done_bytes: int = 0, verb: str = "preprocess", stream: TextIO | None = None
    ) -> None:
        self.verb = verb
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.total = total_bytes
        self.skipped = self.consumed = done_bytes
        self.text_bytes = self.documents = 0
        self.shown = False
        self.started = self.printed = time.monotonic()

    def advance(self, step: Advance) -> None:
        """Add a step and print when it is time."""
        self.consumed += step.input_bytes
        self.text_bytes += step.text_bytes
        self.documents += step.num_documents
        now = time.monotonic()
        if now - self.printed >= (EVERY_ON_A_TERMINAL if self.terminal else EVERY):
            self.printed, self.shown = now, True
            self._print("\r" if self.terminal else "", "\x1b[K" if self.terminal else "\n")

    def copied(self, num_bytes: int) -> None:
        """Add bytes that were copied."""
        self.advance(Advance(input_bytes=num_bytes, text_bytes=num_bytes, num_documents=0))

    def finish(self, *, always: bool = True) -> None:
        """Print the last line; without `always` only where there was one before."""
        if always or self.shown:
            self._print("\r" if self.terminal else "", "\x1b[K\n" if self.terminal else "\n")

    def line(self) -> str:
        """Return the text of the line."""
        seconds = self._seconds()
        share = min(1.0, self.consumed / self.total) if self.total else 1.0
        documents = f"{self.documents:,} documents  {self.documents / seconds:,.0f} docs/s  " if self.documents else ""
        return f"{self.verb}: {share:6.1%}  {documents}{self.text_bytes / 1e6 / seconds:,.1f} MB/s  ETA {self.time_left()}"

    def time_left(self) -> str:
        """Return the time that the rest takes at the pace so far."""
        rate = (self.consumed - self.skipped) / self._seconds()
        return clock_time((self.total - self.consumed) / rate if rate and self.consumed < self.total else 0.0)

    def _seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def _print(self, start: str, end: str) -> None:
        self.stream.write(start + self.line() + end)
        self.stream.flush()
