"""The demo's corpus: the sources and doc strings of the Python standard library that runs this program.

It is real text of about 10 MB that every machine with Python has, so that the demo needs no network. One document is
one module. Documents are ordered by a hash of their names: the order is the same on every machine, and the last
documents, which Megatron's `split` takes for validation, are drawn from all packages.
"""

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meap_megatron.atomic import replace_file
from meap_megatron.errors import UserError

SKIPPED_FOLDERS = frozenset(
    "__pycache__ __phello__ dist-packages encodings ensurepip idlelib lib2to3 lib-dynload site-packages test tests "
    "turtledemo".split()
)
"""Tests, third-party packages, and tables that are not text; none of them is on every machine."""

SKIPPED_PREFIXES = ("_sysconfigdata", "config-")
"""Files and folders that tell how this interpreter was built."""

LEAST_BYTES = 500_000
"""Below this much text there is nothing to learn from."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A written corpus."""

    path: Path
    num_documents: int
    num_bytes: int
    """Of text, UTF-8, without the JSON around it."""


def standard_library() -> Path:
    """Return the folder of the standard library of this interpreter."""
    return Path(sysconfig.get_path("stdlib"))


def module_files(folder: Path) -> list[Path]:
    """Return the modules to read, ordered by a hash of their path relative to `folder`."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and is_wanted(name)]
        found += [Path(root, name) for name in names if name.endswith(".py") and is_wanted(name)]
    return sorted(found, key=lambda path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest())


def is_wanted(name: str) -> bool:
    """Tell whether a file or folder name is not one of those that tell how this interpreter was built."""
    return not name.startswith(SKIPPED_PREFIXES)


def documents(folder: Path, *, byte_limit: int) -> Iterator[tuple[str, str]]:
    """Yield (module path, text) until `byte_limit` bytes of text are reached.

    Left out: empty files, files that are not UTF-8, and those of more than a tenth of the limit, so that there are
    enough documents to take some for validation.
    """
    left = byte_limit
    for path in module_files(folder):
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        num_bytes = len(text.encode("utf-8"))
        if not text.strip() or num_bytes > byte_limit // 10:
            continue
        left -= num_bytes
        yield path.relative_to(folder).as_posix(), text
        if left <= 0:
            return


def write_corpus(output: Path, *, folder: Path, byte_limit: int) -> Corpus:
    """Write the corpus as JSON lines with the keys `module` and `text`.

    Args:
        output: the .jsonl file; its folder is made.
        folder: of the standard library.
        byte_limit: bytes of text after which no further document is taken.

    Raises:
        UserError: the folder holds too little text, as with an interpreter that keeps its library in a zip file.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    num_documents = num_bytes = 0
    with replace_file(output) as file:
        for name, text in documents(folder, byte_limit=byte_limit):
            file.write(json.dumps({"module": name, "text": text}, ensure_ascii=False).encode() + b"\n")
            num_documents += 1
            num_bytes += len(text.encode("utf-8"))
        least = min(LEAST_BYTES, byte_limit // 2)
        if num_bytes < least:
            raise UserError(
                f"{folder} holds {num_bytes:,} bytes of Python sources, the demo needs {least:,}",
                fix="use a Python whose standard library is installed as files",
            )
    return Corpus(path=output, num_documents=num_documents, num_bytes=num_bytes)


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a written corpus."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]
