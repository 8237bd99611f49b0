"""Files that appear under their final name only when complete: temporary name in the same folder, fsync, rename."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from meap_megatron.errors import RunError


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing (disk full, quota, no permission) into a `RunError` that names the path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot write {error.filename or path}: {reason}; free space or choose another folder"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush one file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write a small text file atomically.

    Raises:
        RunError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    # A fixed name: what a killed run leaves behind is replaced by its successor.
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
