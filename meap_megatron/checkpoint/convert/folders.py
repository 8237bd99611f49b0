"""Folders that appear under their final name only when they are complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from meap_megatron.corpus.files import disk_errors, sync_file, sync_folder
from meap_megatron.errors import UserError


def check_free(target: Path, *, overwrite: bool, marker: str) -> None:
    """Refuse a target that exists, unless it is to be replaced and was made by the same command.

    Args:
        target: the folder to be made.
        overwrite: whether it may be replaced.
        marker: a file that the command leaves in every folder it makes.

    Raises:
        UserError: it exists, or is something else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise UserError(f"{target} exists already; --overwrite replaces it")
    if not (target / marker).is_file():
        raise UserError(
            f"{target} was not made by this command (it has no {marker}), so --overwrite does not replace it"
        )


@contextlib.contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target`, which takes its place at the end; after an error nothing is left.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    old = target.with_name(f".{target.name}.old")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (temporary, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        temporary.mkdir()
        try:
            yield temporary
            for path in temporary.rglob("*"):
                sync_file(path) if path.is_file() else sync_folder(path)
            sync_folder(temporary)
            if target.exists():
                os.replace(target, old)
            os.replace(temporary, target)
            sync_folder(target.parent)
            if old.exists():
                shutil.rmtree(old)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)
