"""Outputs that appear under their final name only when they are complete: a text, a file, a folder.

What they replace stays until that moment: they are written under a temporary name in the same folder, flushed to the
disk, and take the final name in one operation. A process that is killed leaves the old output or the new one, and under
a hidden name perhaps an unfinished one, which the next call removes.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from meap_megatron.errors import RunError, UserError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux, <fcntl.h>


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing into an error of ours that names the path.

    Raises:
        UserError: the path leads through a file, where a folder can never be.
        RunError: the disk is full, a quota is reached, there is no permission.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"cannot write {path}: a file is where a folder should be", fix="choose another folder"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(
            f"cannot write {error.filename or path}: {reason}", fix="free space or choose another folder"
        ) from error


def existing_parent(path: Path) -> Path:
    """Return a path if something is there, else the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def sync(path: Path) -> None:
    """Flush a file to the disk; of a folder, the names in it, so that renames are durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replace_file(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """Yield a stream whose content becomes the file at the end; after an error nothing of it is left.

    Args:
        path: the file; its folder exists.
        shared: several processes may write it at the same time, each a temporary file of its own.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    # A fixed name where it can be: what a killed run leaves behind is replaced by its successor.
    own = f".{socket.gethostname()}.{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{own}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def replace_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a small text file, as `replace_file` does; half a surrogate pair is written as `\\udXXX`.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    content = text.encode("utf-8", errors="backslashreplace")
    with replace_file(path, shared=shared) as stream:
        stream.write(content)


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, which takes its place at the end; after an error nothing of it is left.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    target = target.resolve()  # a link to another disk stays a link
    temporary = target.with_name(f".{target.name}.tmp")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        restore_folder(target)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            sync(temporary)
            _take_place(temporary, target)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)


def restore_folder(target: Path) -> None:
    """Finish what a killed `replace_folder` left where folders cannot be exchanged: the old one, put aside."""
    target = target.resolve()
    old = _aside(target)
    if old.exists():
        if target.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, target)


def _take_place(new: Path, target: Path) -> None:
    """Give a folder its final name; an old one of that name is left under the name of the new one, or removed."""
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):
        old = _aside(target)
        os.rename(target, old)
        os.rename(new, target)
        shutil.rmtree(old)
    sync(target.parent)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one operation; False where system or file system cannot (NFS, macOS)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))
