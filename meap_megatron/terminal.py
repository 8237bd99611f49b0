"""What reaches the terminal: errors with their fix, colours, and how much else (--quiet, --verbose)."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from meap_megatron.errors import RunError, UserError

OUTPUT = "MEAP_OUTPUT"
"""The environment variable by which ranks and the arms of a sweep know what was asked for: "quiet" or "verbose"."""

PRINTING = ("json", "dry_run", "slurm")
"""Options of verbs that ask for something on stdout, which --quiet does not take away."""


def add_switches(parser: argparse.ArgumentParser) -> None:
    """Declare --quiet and --verbose, the same for every verb that may run long."""
    switches = parser.add_mutually_exclusive_group()
    switches.add_argument(
        "-q", "--quiet", action="store_true", help="print errors only (and what --json or --dry-run asks for)"
    )
    switches.add_argument(
        "-v", "--verbose", action="store_true", help="print all that the libraries say, also what goes to a log"
    )


def is_quiet() -> bool:
    """Tell whether only errors are printed."""
    return os.environ.get(OUTPUT) == "quiet"


def is_verbose() -> bool:
    """Tell whether the libraries underneath (Megatron, torch, transformers, lm-eval) may print what they like."""
    return os.environ.get(OUTPUT) == "verbose"


@contextlib.contextmanager
def as_asked(args: argparse.Namespace) -> Iterator[None]:
    """Print as much as the switches of a verb say; without them, as much as the process that started this one."""
    before = os.environ.get(OUTPUT)
    for level in ("quiet", "verbose"):
        if getattr(args, level, False):
            os.environ[OUTPUT] = level
    try:
        with muted(results=any(getattr(args, name, False) for name in PRINTING)):
            yield
    finally:
        os.environ.pop(OUTPUT, None)
        os.environ.update({OUTPUT: before} if before else {})


class _Muted(io.TextIOBase):
    """A stream that drops what is written, and knows the one in whose place it is."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def write(self, text: str) -> int:
        return len(text)


def heard(stream: Any) -> Any:
    """Return the stream itself, or the one that it mutes."""
    return stream.stream if isinstance(stream, _Muted) else stream


@contextlib.contextmanager
def muted(*, results: bool = False) -> Iterator[None]:
    """Print nothing but errors if that was asked for.

    Args:
        results: stdout is heard all the same.
    """
    if not is_quiet() or isinstance(sys.stderr, _Muted):
        yield
        return
    out = sys.stdout if results else _Muted(sys.stdout)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(_Muted(sys.stderr)):
        yield


@contextlib.contextmanager
def unmuted() -> Iterator[None]:
    """Write to stdout and stderr themselves, where these lead to a log."""
    with contextlib.redirect_stdout(heard(sys.stdout)), contextlib.redirect_stderr(heard(sys.stderr)):
        yield


def in_colour(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal whose user has not asked for text without colours (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def print_error(error: UserError | RunError) -> None:
    """Say on stderr what went wrong, and on a line of its own what to do about it."""
    stream = heard(sys.stderr)
    colour = in_colour(stream)
    word = "\033[1;31merror:\033[0m" if colour else "error:"
    print(f"meap: {word} {error.shown(colour=colour)}", file=stream, flush=True)
