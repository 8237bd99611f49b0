"""Is a checkpoint whole? Compare it with its manifest; one without is judged by the index inside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meap_megatron.checkpoint import index, manifest
from meap_megatron.checkpoint.folder import file_sizes
from meap_megatron.checkpoint.manifest import FileEntry, Manifest, ManifestError

Level = Literal["sizes", "full", "auto"]
LEVELS: tuple[Level, ...] = ("auto", "sizes", "full")
AUTO_FULL_BYTES = 8 * 2**30
"""Level auto reads checkpoints up to this size, about 5 s at 1.8 GB/s, and compares only the sizes of larger ones."""

State = Literal["good", "no manifest", "unfinished", "damaged"]
LOADABLE: tuple[State, ...] = ("good", "no manifest")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One file that is not what it should be."""

    file: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.file}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found of one checkpoint."""

    checkpoint: Path
    state: State
    level: str
    """How it was checked: "full", "sizes", "index", or "" if there was nothing to compare with."""
    problems: list[Problem]
    manifest: Manifest | None
    bytes: int
    """Size of its files."""

    @property
    def loadable(self) -> bool:
        """Whether a run may continue from it."""
        return self.state in LOADABLE

    def explain(self) -> str:
        """Return one line for people: its name, its state, and what is wrong."""
        wrong = "; ".join(map(str, self.problems[:3]))
        more = f"; and {len(self.problems) - 3} more" if len(self.problems) > 3 else ""
        return f"{self.checkpoint.name} is {self.state}" + (f": {wrong}{more}" if wrong else "")


def inspect(checkpoint: Path, level: Level, *, read_index: bool = False) -> Inspection:
    """Check one checkpoint.

    Args:
        checkpoint: .../iter_0000100
        level: "sizes" compares the size of every file with the manifest, "full" its content too, "auto" is full up to
            `AUTO_FULL_BYTES`.
        read_index: read the index inside the checkpoint even if the manifest is there; without one it is always read.
    """
    sizes = {name: size for name, size in file_sizes(checkpoint).items() if name != manifest.NAME}
    total = sum(sizes.values())

    def found(state: State, level: str, problems: list[Problem], known: Manifest | None = None) -> Inspection:
        return Inspection(
            checkpoint=checkpoint, state=state, level=level, problems=problems, manifest=known, bytes=total
        )

    try:
        known = manifest.read(checkpoint)
    except ManifestError as error:
        return found("damaged", "", [Problem(file=manifest.NAME, expected="a manifest", found=str(error))])
    if known is None:
        return found(*without_manifest(checkpoint, sizes))
    if not known.complete:
        unfinished = Problem(file=manifest.NAME, expected="a finished save", found="an interrupted save")
        return found("unfinished", "", [unfinished], known)
    problems = wrong_sizes(known, sizes)
    full = level == "full" or (level == "auto" and known.total_bytes <= AUTO_FULL_BYTES)
    if full:
        bad = {problem.file for problem in problems}
        problems += wrong_contents(checkpoint, {n: e for n, e in known.files.items() if n not in bad})
    if read_index and not problems and index.has_index(checkpoint):
        problems += wrong_index(checkpoint, sizes)
    return found("damaged" if problems else "good", "full" if full else "sizes", problems, known)


def wrong_sizes(known: Manifest, sizes: dict[str, int]) -> list[Problem]:
    """Return the files of a manifest that are missing or of another size."""
    problems = []
    for name, entry in known.files.items():
        if name not in sizes:
            problems.append(Problem(file=name, expected=f"{entry.bytes:,} bytes", found="no such file"))
        elif sizes[name] != entry.bytes:
            problems.append(Problem(file=name, expected=f"{entry.bytes:,} bytes", found=f"{sizes[name]:,} bytes"))
    return problems


def wrong_contents(checkpoint: Path, files: dict[str, FileEntry]) -> list[Problem]:
    """Read files and return those whose checksum is not the manifest's."""
    problems = []
    for name, got in manifest.file_entries(checkpoint, files).items():
        if isinstance(got, OSError):
            found = f"it cannot be read ({got.strerror})"
        elif got.sha256 != files[name].sha256:
            found = got.sha256
        else:
            continue
        problems.append(Problem(file=name, expected=f"SHA-256 {files[name].sha256}", found=found))
    return problems


def wrong_index(checkpoint: Path, sizes: dict[str, int]) -> list[Problem]:
    """Read the index and return the files that are too short for the tensors it places in them, or the index itself."""
    try:
        needed = index.needed_bytes(checkpoint)
    except ValueError as error:
        return [Problem(file=index.INDEX, expected="an index that can be read", found=str(error))]
    problems = []
    for name, least in sorted(needed.items()):
        size = sizes.get(name)
        if size is None or size < least:
            found = "no such file" if size is None else f"{size:,} bytes"
            problems.append(Problem(file=name, expected=f"at least {least:,} bytes", found=found))
    return problems


def without_manifest(checkpoint: Path, sizes: dict[str, int]) -> tuple[State, str, list[Problem]]:
    """Judge a checkpoint that Megatron alone wrote: by its index, which Megatron writes last of all.

    One file per rank (`torch` format) has no index; there only "is anything there" can be asked.
    """
    if not sizes:
        return "unfinished", "", [Problem(file=".", expected="files", found="an empty folder")]
    if not index.has_index(checkpoint):
        return "no manifest", "", []
    if index.INDEX not in sizes:
        problem = Problem(file=index.INDEX, expected="the index that ends a save", found="no such file")
        return "unfinished", "index", [problem]
    problems = wrong_index(checkpoint, sizes)
    return ("damaged" if problems else "no manifest"), "index", problems
