"""A folder of index files that is there complete or not at all: built in a private folder, published by one rename.

Megatron writes the files of its index cache one by one under their final names and takes a file that exists for a good
one. Here all files of one run (every split, every source, the blend) and a manifest of their sizes and checksums are one
folder, and renaming a folder is atomic on local disks, NFS and Lustre. Builders that race each build their own: the first
to rename wins and the others read the winner's. Price: while they race, each does the whole work.

    ROOT/KEY/                  the entry: Megatron's files and entry.json
    ROOT/.building-HOST-...    being built; what a killed process leaves is removed by the next builder on that host
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meap_megatron.atomic import disk_errors, replace_text, sync
from meap_megatron.errors import RunError

MANIFEST = "entry.json"
FORMAT = 1
ATTEMPTS = 5
"""How often a builder tries to publish; each failure means that another process has put a damaged entry there since."""

FLUSHED_TOGETHER = 32
"""Files that are flushed to the disk at the same time."""


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """A complete entry."""

    path: Path
    """Of its folder."""
    files: dict[str, dict[str, int]]
    """Name -> {"bytes", "crc32"}."""
    facts: dict[str, Any]
    """What its builder says about it."""
    seconds: float
    """That building took."""
    built: bool = False
    """By this call, not by an earlier one."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all files, the manifest not counted."""
        return sum(file["bytes"] for file in self.files.values())


class Damaged(Exception):
    """An entry whose files are not those that were published."""


def read(path: Path, *, contents: bool) -> IndexEntry | None:
    """Return the entry of a folder, or None if there is no such folder.

    Args:
        contents: compare checksums too, which reads all files; else only their sizes.

    Raises:
        Damaged: the manifest cannot be read, or a file is missing, or has another size or content.
    """
    if not path.is_dir():
        return None
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise Damaged(f"{path / MANIFEST} has format {manifest['format']}, this version reads {FORMAT}")
        entry = IndexEntry(path=path, files=manifest["files"], facts=manifest["facts"], seconds=manifest["seconds"])
        for name, file in entry.files.items():
            size = (path / name).stat().st_size
            if size != file["bytes"]:
                raise Damaged(f"{path / name} has {size:,} bytes, its manifest says {file['bytes']:,}")
            if contents and (found := crc32(path / name)) != file["crc32"]:
                raise Damaged(f"{path / name} has checksum {found:08x}, its manifest says {file['crc32']:08x}")
    except OSError as error:
        raise Damaged(f"{error.filename or path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise Damaged(f"{path / MANIFEST} is not a manifest of an index cache") from None
    return entry


def obtain(root: Path, key: str, build: Callable[[Path], dict[str, Any]], *, say: Callable[[str], None]) -> IndexEntry:
    """Return the entry `key` of a cache, building it if it is not there or is damaged; any number of processes may.

    Args:
        root: folder of the cache, made if it is not there.
        build: writes all files of the entry into the folder it is given, and returns facts for the manifest; called
            again by another process it must write the same.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    path = root / key
    if (entry := sound(path, say=say)) is not None:
        return entry
    with disk_errors(root), workspace(root) as folder:
        began = time.perf_counter()
        facts = build(folder)
        write_manifest(folder, facts, seconds=time.perf_counter() - began)
        for _ in range(ATTEMPTS):
            try:
                os.rename(folder, path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if (entry := sound(path, say=say)) is not None:
                    return entry  # another process was first
                continue
            sync(root)
            published = read(path, contents=False)
            assert published is not None, f"{path} was published by this process"
            return replace(published, built=True)
    raise RunError(f"{path} was damaged again {ATTEMPTS} times while it was built; what else writes there?")


def sound(path: Path, *, say: Callable[[str], None]) -> IndexEntry | None:
    """Return the entry of a folder; one that is damaged is named, put out of the way, and None returned."""
    try:
        return read(path, contents=True)
    except Damaged as damage:
        say(f"{damage}; the index is built again")
    away = path.with_name(f".damaged-{secrets.token_hex(8)}")
    try:
        os.rename(path, away)
    except FileNotFoundError:
        return None  # another process has done it
    # Another process may have put a good one there since: then what was taken away is given back.
    with contextlib.suppress(Damaged, OSError):
        read(away, contents=True)
        os.rename(away, path)
        return read(path, contents=True)
    shutil.rmtree(away, ignore_errors=True)
    return None


def write_manifest(folder: Path, facts: dict[str, Any], *, seconds: float) -> None:
    """Make the files of a folder durable and list them."""
    paths = sorted(folder.iterdir())
    # A blend of 100 sources has 800 files; flushed together they share the commits of the file system's journal.
    with ThreadPoolExecutor(FLUSHED_TOGETHER) as threads:
        list(threads.map(sync, paths))
    files = {path.name: {"bytes": path.stat().st_size, "crc32": crc32(path)} for path in paths}
    manifest = {"format": FORMAT, "files": files, "facts": facts, "seconds": seconds, "host": socket.gethostname()}
    replace_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def crc32(path: Path) -> int:
    """Return the checksum of a file's content."""
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(2**22):
            value = zlib.crc32(block, value)
    return value


@contextlib.contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """Make a folder that only this process writes, on the same disk as `root`; it is gone at the end unless renamed."""
    root.mkdir(parents=True, exist_ok=True)
    prefix = f".building-{socket.gethostname()}-"
    folder = root / f"{prefix}{secrets.token_hex(8)}"
    # A file system without locks refuses every one of these; then leftovers stay there.
    with locked(root):  # nobody looks for leftovers while this folder is there and not locked yet
        remove_leftovers(root, prefix)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, waiting for it; without one on a file system that has none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(root: Path, prefix: str) -> None:
    """Remove the workspaces of this host whose process is gone: the kernel has released their locks."""
    for folder in root.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
