"""Find the input files, and say of each file below a folder that is not read why it is not.

    .txt                    one document per file
    .jsonl .ndjson .json    objects: one a line, the elements of an array, or one after the other over any lines
    .parquet                rows
    .gz .bz2 .xz .zst       behind the first four: the same, compressed

Suffixes may be in any case. Text may be UTF-8, UTF-16 or UTF-32.
"""

import dataclasses
import glob
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meap_megatron.corpus import hub
from meap_megatron.corpus.json_values import json_layout
from meap_megatron.corpus.streams import (
    CHUNK,
    COMPRESSIONS,
    decompressed,
    encoding_of,
    foreign_content,
    open_stream,
    unreadable,
)
from meap_megatron.errors import UserError

SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
KNOWN = f"{', '.join(SUFFIXES)}; all but the last also with {', '.join(COMPRESSIONS)} behind it"
# What accompanies data in a folder: models, tokenizers and what this package made may be beside them.
METADATA_NAMES = re.compile(
    r"(readme|licen[cs]e|notice|citation|changelog|requirements)(\.\w+)?|dataset_(info|infos|dict)\.json|_success"
    r"|tokenizer\.json|vocab\.(json|txt)|merges\.txt|.+\.index\.json|.+\.meap\.json",
    re.IGNORECASE,
)
METADATA_FOLDERS = ("__MACOSX", "__pycache__", "_temporary", "_delta_log", "_spark_metadata")
# Why a file is skipped.
HIDDEN, METADATA, UNKNOWN = "hidden", "metadata", "unknown suffix"
BROKEN, SPECIAL, UNREADABLE = "broken link", "not a regular file", "unreadable"
PLAIN_TEXT, OTHER_OBJECT = "plain text, no conversations", "one JSON object that is not a record"
REPEATED, VISITED = "named twice, read once", "link to a folder that is read already"
LISTED = 3  # files that a line names
NOTHING_LOST = (REPEATED, VISITED)
"""Reasons for which `--strict` refuses nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file as it was found: resume refuses when size or time changed."""

    path: str
    kind: str  # "txt", "jsonl", "array", "objects" (see json_values.json_layout), "parquet" or "hub"
    compression: str  # "", or one of COMPRESSIONS
    encoding: str  # "" for UTF-8
    size: int  # bytes
    modified: int  # nanoseconds since 1970; of a data set of the Hub, its version

    @property
    def seekable(self) -> bool:
        """Whether a part of it can be read without what comes before."""
        return not self.compression and not self.encoding


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file or folder that is not read."""

    path: str
    why: str  # one of the reasons above
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({self.detail})" if self.detail else self.path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the inputs of a command hold."""

    files: list[InputFile]
    skipped: list[Skipped]


def find_inputs(
    patterns: list[str], *, is_record: Callable[[dict[str, Any]], bool] = lambda record: True, text: bool = True
) -> Inputs:
    """Expand files, folders, globs and data sets of the Hub into a list of files.

    Patterns come in the order given, the files of each sorted.

    A folder, also one that a glob matches, gives all files below it that can be read; links are followed, every folder
    is read once. A file that two patterns name is read once. A file that is named itself must be readable.

    Args:
        patterns: files, folders and globs, and names of `hub`.
        is_record: tells whether the only object of a .json file below a folder is data, and not about the data.
        text: read plain text.

    Raises:
        UserError: a pattern matches nothing, a folder holds no readable file, or a named file cannot be read.
    """
    found: dict[str, InputFile] = {}
    skipped: list[Skipped] = []
    for pattern in patterns:
        if pattern.startswith(hub.PREFIX):
            size, version = hub.look_up(pattern)
            found[pattern] = InputFile(
                path=pattern, kind=hub.KIND, compression="", encoding="", size=size, modified=version
            )
            continue
        named = os.path.lexists(pattern) and not os.path.isdir(pattern)
        paths = [Path(pattern)] if named else _files_of(pattern, skipped)
        usable = 0
        for path in paths:
            file = _input_file(path, is_record=None if named else is_record, text=text)
            if isinstance(file, Skipped):
                if named:
                    raise UserError(_refusal(file))
                skipped.append(file)
                continue
            usable += 1
            if (real := os.path.realpath(path)) in found:
                skipped.append(Skipped(str(path), REPEATED))
            else:
                found[real] = file
        if not usable:
            listed = "".join(f"\n{line}" for line in skipped_lines(skipped))
            raise UserError(
                f"input {pattern} contains no file that can be read; known suffixes are {KNOWN}"
                + (f"\nskipped:{listed}" if listed else "")
            )
    # A file may be read by way of a link, and have no suffix of its own.
    lost = [one for one in skipped if one.why in NOTHING_LOST or os.path.realpath(one.path) not in found]
    return Inputs(files=list(found.values()), skipped=lost)


def skipped_lines(skipped: list[Skipped]) -> Iterator[str]:
    """Give a line for each reason: how many files, and which ones."""
    by_reason: dict[str, list[Skipped]] = {}
    for one in skipped:
        by_reason.setdefault(one.why, []).append(one)
    for why, files in by_reason.items():
        more = f" and {len(files) - LISTED:,} more" if len(files) > LISTED else ""
        yield f"  {why} ({len(files):,}): {', '.join(map(str, files[:LISTED]))}{more}"


def refuse_skipped(skipped: list[Skipped]) -> None:
    """Refuse to skip files of which something would be lost.

    Raises:
        UserError: names them.
    """
    if lost := [one for one in skipped if one.why not in NOTHING_LOST]:
        lines = "\n".join(skipped_lines(lost))
        raise UserError(
            f"--strict: {len(lost):,} files would be skipped:\n{lines}", fix="name the files to read, or remove these"
        )


def _files_of(pattern: str, skipped: list[Skipped]) -> list[Path]:
    """Return the files of a folder or a glob, sorted; note what is seen to be no input by its place alone."""
    if os.path.isdir(pattern):
        return _files_below(Path(pattern), skipped)
    matches = sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not matches:
        raise UserError(
            f"no input matches {pattern!r}: neither a file, nor a folder, nor a glob with a match",
            fix="check the path",
        )
    files: list[Path] = []
    for path in matches:
        if not path.is_dir():
            files.append(path)
        elif "**" not in pattern:  # which matches the files below the folders too
            files += _files_below(path, skipped)
    return files


def _files_below(top: Path, skipped: list[Skipped]) -> list[Path]:
    """Return the files below a folder, sorted. Links are followed after the folders themselves, each folder once."""
    files: list[Path] = []
    folders, links = [top], list[Path]()
    seen: set[str] = set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if (real := os.path.realpath(folder)) in seen:
            skipped.append(Skipped(str(folder), VISITED))
            continue
        seen.add(real)
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            skipped.append(Skipped(str(folder), UNREADABLE, error.strerror or str(error)))
            continue
        for path in (folder / name for name in names):
            if path.name.startswith("."):
                skipped.append(Skipped(str(path), HIDDEN))
            elif not os.path.isdir(path):
                files.append(path)
            elif path.name in METADATA_FOLDERS:
                skipped.append(Skipped(str(path), METADATA))
            else:
                (links if path.is_symlink() else folders).append(path)
    return sorted(files)


def _input_file(path: Path, *, is_record: Callable[[dict[str, Any]], bool] | None, text: bool) -> InputFile | Skipped:
    """Look at a file; one that is named itself (without `is_record`) is never metadata."""

    def skip(why: str, detail: str = "") -> Skipped:
        return Skipped(str(path), why, detail)

    if is_record is not None and METADATA_NAMES.fullmatch(path.name):
        return skip(METADATA)
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    kind = SUFFIXES.get((Path(path.stem) if compression else path).suffix.lower())
    if not os.path.exists(path):
        return skip(BROKEN, f"to {os.readlink(path)}" if path.is_symlink() else "it does not exist")
    if kind is None or (kind == "parquet" and compression):
        return skip(UNKNOWN)
    if kind == "txt" and not text:
        return skip(PLAIN_TEXT)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return skip(SPECIAL)
        with path.open("rb") as raw:
            if wrong := foreign_content(raw.peek(64), kind=kind, compression=compression):
                return skip(UNREADABLE, wrong)
            encoding = ""
            if kind != "parquet":
                stream = decompressed(raw, compression)
                start = stream.read(CHUNK)
                encoding = encoding_of(start, kind=kind)
                if kind == "jsonl" and not encoding:
                    kind = json_layout(start, stream)
        if encoding and kind == "jsonl":
            with open_stream(str(path), compression=compression, encoding=encoding) as (stream, _):
                start = stream.read(CHUNK)
                kind = json_layout(start, stream)
        if kind not in ("txt", "parquet"):
            if is_record is not None and ".json" in path.suffixes[-2:] and not _holds_records(start, is_record):
                return skip(OTHER_OBJECT)
    except Exception as error:
        if reason := unreadable(error):
            return skip(UNREADABLE, reason)
        raise
    return InputFile(
        path=str(path),
        kind=kind,
        compression=compression,
        encoding=encoding,
        size=status.st_size,
        modified=status.st_mtime_ns,
    )


def _holds_records(start: bytes, is_record: Callable[[dict[str, Any]], bool]) -> bool:
    """Tell whether the text of a file, if it is one short object, is a record; what is anything else may hold some."""
    try:
        value = json.loads(start)
    except (ValueError, RecursionError):
        return True
    return not isinstance(value, dict) or is_record(value)


def _refusal(file: Skipped) -> str:
    """Return the message about a file that was named itself."""
    if file.why == UNKNOWN:
        return f"input {file.path} has an unknown suffix; known are {KNOWN}"
    if file.why == PLAIN_TEXT:
        return f"input {file.path} is plain text; conversations are read from {KNOWN.removeprefix('.txt, ')}"
    if file.why == BROKEN:
        return f"input {file.path} is a broken link {file.detail}"
    if file.why == SPECIAL:
        return f"input {file.path} is not a regular file; write what it gives to a file and name that"
    return f"input {file.path} cannot be read: {file.detail}"
