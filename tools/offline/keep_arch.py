"""Blank the machine code of all GPU architectures but one in CUDA shared libraries, so that they compress to little.

    python keep_arch.py --arch 90 LIBRARY.so ...

`nvprune` does this for static libraries only. The section `.nv_fatbin` of a shared library is a row of containers, each with
an entry per architecture: a header that names kind and architecture, and a payload. Only payloads of other architectures
become zeros; no header, size or position changes, and the driver never reads them on a GPU of the kept one. A container
that has no machine code for it keeps everything, since its PTX may be needed.
"""

import argparse
import mmap
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes that follow
ENTRY = struct.Struct("<HHIQ")  # kind, version, bytes of this header, bytes of the payload
MAGIC = 0xBA55ED50
ARCHITECTURE_AT = 28
PTX, MACHINE_CODE = 1, 2
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Code for one architecture."""

    kind: int
    arch: int
    start: int
    """Of the payload, in the file."""
    size: int


def fatbin_section(data: mmap.mmap) -> range:
    """Return the positions of `.nv_fatbin`.

    Raises:
        ValueError: not a 64-bit little-endian ELF file, or without that section.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names_at = struct.unpack_from("<HHH", data, 58)

    def header(number: int) -> tuple[int, int, int]:
        name, _, _, _, start, length = struct.unpack_from("<IIQQQQ", data, table + number * size)
        return name, start, length

    names = header(names_at)[1]
    for number in range(count):
        name, start, length = header(number)
        if data[names + name : names + name + 11] == b".nv_fatbin\0":
            return range(start, start + length)
    raise ValueError("no section .nv_fatbin: a library without GPU code")


def containers(data: mmap.mmap, section: range) -> Iterator[list[Entry]]:
    """Yield the entries of every container.

    Raises:
        ValueError: bytes between containers that are not padding.
    """
    at = section.start
    while at + CONTAINER.size <= section.stop:
        magic, _, head, body = CONTAINER.unpack_from(data, at)
        if magic != MAGIC:
            if any(data[at : at + 8]):
                raise ValueError(f"unknown bytes at {at:#x} in .nv_fatbin")
            at += 8
            continue
        stop = at + head + body
        entries, here = [], at + head
        while here + ENTRY.size <= stop:
            kind, _, entry_head, payload = ENTRY.unpack_from(data, here)
            if kind not in (PTX, MACHINE_CODE):
                raise ValueError(f"unknown kind {kind} of code at {here:#x}")
            (arch,) = struct.unpack_from("<I", data, here + ARCHITECTURE_AT)
            entries.append(Entry(kind=kind, arch=arch, start=here + entry_head, size=payload))
            here += entry_head + payload
        yield entries
        at = stop


def blank(path: Path, arch: int) -> tuple[Counter[str], int]:
    """Blank a library in place; return the bytes by what became of them, and how many containers stay whole.

    Raises:
        ValueError: see `fatbin_section`, or no container has code for the architecture.
    """
    bytes_: Counter[str] = Counter()
    found = whole = 0
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as data:
        for entries in containers(data, fatbin_section(data)):
            kept = [entry for entry in entries if entry.kind == MACHINE_CODE and entry.arch == arch]
            found += bool(kept)
            whole += not kept
            for entry in entries:
                name = f"{'PTX' if entry.kind == PTX else 'sm'}_{entry.arch}"
                if not kept or entry in kept:
                    bytes_[f"{name} kept"] += entry.size
                    continue
                bytes_[f"{name} blanked"] += entry.size
                for start in range(entry.start, entry.start + entry.size, CHUNK):
                    length = min(CHUNK, entry.start + entry.size - start)
                    data[start : start + length] = bytes(length)
    if not found:
        raise ValueError(f"no code for sm_{arch}: the library is for other GPUs, all of it was kept")
    return bytes_, whole


def main() -> int:
    """Blank the libraries that are given; return 2 if one cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, required=True, help="such as 90")
    parser.add_argument("libraries", nargs="+", type=Path)
    args = parser.parse_args()
    for path in args.libraries:
        try:
            bytes_, whole = blank(path, args.arch)
        except (OSError, ValueError, struct.error) as error:
            print(f"keep_arch: error: {path}: {error}", file=sys.stderr)
            return 2
        for name, count in sorted(bytes_.items()):
            print(f"  {path.name}: {name} {count / 1e6:.1f} MB")
        if whole:
            print(f"  {path.name}: {whole} containers without sm_{args.arch} stay whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
