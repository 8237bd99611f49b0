"""The files of a dataset take their places together, although the file system can only move one at a time.

A new dataset is written into a hidden folder beside its prefix. Renaming that folder is the moment from which it counts:
before it, the old dataset is untouched; after it, whoever opens the prefix moves what is not in place yet (`finish`).

    .PREFIX.making/   being written; a killed run leaves it, the next one removes it
    .PREFIX.new/      complete; its files move one by one, the sidecar last
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from meap_megatron.atomic import disk_errors, sync
from meap_megatron.errors import UserError

SUPERSEDED = ".superseded.json"
"""In the complete folder: names of old files that the new dataset does not have."""


@contextlib.contextmanager
def replacement(prefix: Path, *, old: list[Path], last: Path) -> Iterator[Path]:
    """Yield a prefix to write a new dataset at, which replaces the one of `prefix` when the block ends.

    Args:
        old: files and folders that the new ones replace; what the new dataset does not have of them goes.
        last: the file that is moved last.

    Raises:
        RunError: the disk is full or the folder cannot be written; the old dataset is as it was.
    """
    making, complete = prefix.with_name(f".{prefix.name}.making"), _complete(prefix)
    finish(prefix, last=last)
    with disk_errors(prefix):
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        try:
            yield making / prefix.name
            new = set(_files(making))
            gone = {path.relative_to(prefix.parent) for path in _expanded(old)} - new
            (making / SUPERSEDED).write_text(json.dumps(sorted(map(str, gone))))
            for path in making.rglob("*"):
                sync(path)
            sync(making)
            os.rename(making, complete)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        sync(prefix.parent)
    finish(prefix, last=last)


def finish(prefix: Path, *, last: Path) -> None:
    """Move what a complete replacement has not moved yet. Several processes may do it at the same time.

    Raises:
        UserError: there is something to move, and this process may not.
    """
    complete = _complete(prefix)
    if not complete.is_dir():
        return
    try:
        # Every operation may have been done already: by a process that was killed, or is doing the same now.
        with contextlib.suppress(FileNotFoundError):
            gone = json.loads((complete / SUPERSEDED).read_text())
            for name in sorted(_files(complete), key=lambda name: prefix.parent / name == last):
                if prefix.parent / name == last:
                    _remove([prefix.parent / path for path in gone])
                (prefix.parent / name).parent.mkdir(exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.replace(complete / name, prefix.parent / name)
        sync(prefix.parent)
        shutil.rmtree(complete, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"the replacement of {prefix} was interrupted, and its last files cannot be moved out of {complete} "
            f"({error.strerror})",
            fix=f"run `meap verify {prefix}` as somebody who can write there",
        ) from None


def _complete(prefix: Path) -> Path:
    return prefix.with_name(f".{prefix.name}.new")


def _files(folder: Path) -> Iterator[Path]:
    """Give the files of a new dataset, relative to its folder."""
    return (path.relative_to(folder) for path in _expanded([folder]) if path.name != SUPERSEDED)


def _expanded(paths: list[Path]) -> Iterator[Path]:
    """Give files as they are, and the files of folders."""
    for path in paths:
        if path.is_dir():
            yield from (inner for inner in path.rglob("*") if inner.is_file())
        elif path.exists():
            yield path


def _remove(files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)
    for folder in {path.parent for path in files}:
        with contextlib.suppress(OSError):  # it has other files, or is gone
            folder.rmdir()
