"""The manifest of a checkpoint: every file with its size and SHA-256, and what the checkpoint is of.

`meap_manifest.json` is inside the checkpoint's folder. Before Megatron writes, a manifest with `complete: false` is
put there; when all files are written, the real one replaces it in one rename. So a folder tells at any moment which it is:

    no manifest            Megatron alone wrote it
    complete: false        an interrupted save
    complete: true         every file below is there, with this size and this content

SHA-256 because it is standard (`sha256sum` checks a file by hand) and processors have instructions for it: 1.8 GB/s per
core here against 0.9 GB/s of BLAKE2b (docs/design.md).
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from meap_megatron.atomic import replace_text
from meap_megatron.version import __version__, installed

NAME = "meap_manifest.json"
FORMAT = 1
READ_BYTES = 2**22
MAX_READERS = 8
"""Files hashed at a time by one process; hashlib lets other threads run."""


class ManifestError(ValueError):
    """A manifest that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a checkpoint."""

    bytes: int
    sha256: str
    """In hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint is of, and its files by their path inside its folder."""

    iteration: int
    complete: bool
    consumed_samples: int | None = None
    layout: dict[str, int] = field(default_factory=dict)
    """Sizes of the run: "world", "tensor", "pipeline", "context", "data"."""
    versions: dict[str, str] = field(default_factory=dict)
    written: str = ""
    """ISO 8601, UTC."""
    files: dict[str, FileEntry] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.bytes for entry in self.files.values())


def write(checkpoint: Path, manifest: Manifest) -> None:
    """Put the manifest into the checkpoint's folder, atomically and durably.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    replace_text(checkpoint / NAME, json.dumps(asdict(manifest), indent=1) + "\n")


def read(checkpoint: Path) -> Manifest | None:
    """Return the manifest of a checkpoint, None if it has none.

    Raises:
        ManifestError: the file is not a manifest of this format; says why.
    """
    try:
        raw = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ManifestError(f"format {raw['format']} is not {FORMAT}, the one this version reads")
        entries = {
            name: FileEntry(bytes=int(entry["bytes"]), sha256=str(entry["sha256"]))
            for name, entry in raw.pop("files").items()
        }
        return Manifest(**{**raw, "files": entries})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ManifestError:
        raise
    except OSError as error:
        raise ManifestError(error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"not a manifest ({type(error).__name__}: {error})") from None


def file_entry(path: Path) -> FileEntry:
    """Read one file and return its size and checksum."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as stream:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while block := stream.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def file_entries(checkpoint: Path, names: Iterable[str]) -> dict[str, FileEntry | OSError]:
    """Read files of a checkpoint, some at a time, and return each one's entry, or why it could not be read."""

    def entry(name: str) -> FileEntry | OSError:
        try:
            return file_entry(checkpoint / name)
        except OSError as error:
            return error

    names = list(names)
    with ThreadPoolExecutor(max_workers=max(1, min(MAX_READERS, len(names), os.cpu_count() or 1))) as pool:
        return dict(zip(names, pool.map(entry, names), strict=True))


def share_of_rank(names: Iterable[str], *, rank: int, world: int) -> list[str]:
    """Return the files whose checksums a rank computes: those it wrote itself, rank 0 the rest.

    Megatron calls the files of rank R `__R_*.distcp`; what a process has just written, it reads back from memory.
    """

    def writer(name: str) -> int:
        number = name.removeprefix("__").split("_", 1)[0] if name.startswith("__") else ""
        return int(number) if number.isdecimal() and int(number) < world else 0

    return [name for name in names if name != NAME and writer(name) == rank]


def now() -> str:
    """Return the present time as manifests state it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def library_versions() -> dict[str, str]:
    """Return the versions that wrote a checkpoint."""
    return {"meap_megatron": __version__} | installed(("megatron-core", "torch"))
