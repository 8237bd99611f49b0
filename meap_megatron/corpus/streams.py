"""Open an input file as a stream of UTF-8 bytes: decompressed, and transcoded from UTF-16 or UTF-32."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from meap_megatron.errors import UserError

BYTE_ORDER_MARK = codecs.BOM_UTF8
CHUNK = 2**16  # bytes or characters that are decompressed or transcoded at once
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
# How files begin. A .zst may begin with a skippable frame, as pzstd writes; the names of text formats are text themselves.
BEGINNINGS = {
    ".gz": rb"\x1f\x8b",
    ".bz2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    ".xz": rb"\xfd7zXZ\0",
    ".zst": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "parquet": rb"PAR1([\x00-\x1f]|\Z)",
    "a zip archive": rb"PK\x03\x04",
    "an Arrow file": rb"ARROW1\0\0",
    "a Git LFS pointer, not the data (fetch it with `git lfs pull`)": rb"version https://git-lfs",
}
# A mark of UTF-32 begins like one of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# JSON begins with two ASCII characters: where its first bytes are zero tells how wide the characters are.
ZEROS = {
    (1, 0, 0, 0): "utf-32-le",
    (0, 0, 0, 1): "utf-32-be",
    (1, 0): "utf-16-le",
    (0, 1): "utf-16-be",
}


def foreign_content(head: bytes, *, kind: str, compression: str) -> str | None:
    """Return what is wrong with the first bytes of a file of this kind and compression, or None.

    Args:
        head: the first bytes as they are in the file, at least 64 of a file that has so many.
        kind: "txt", "jsonl" or "parquet".
        compression: one of `COMPRESSIONS`, or "".
    """
    found = next((name for name, pattern in BEGINNINGS.items() if re.match(pattern, head)), None)
    expected = compression or (kind if kind == "parquet" else None)
    if found == expected or not head:
        return None
    if found is None:
        return f"it is not {expected} data, it begins with {head[:16]!r}"
    return f"it is {found}{' data' * (found in COMPRESSIONS)}"


def encoding_of(head: bytes, *, kind: str) -> str:
    """Return the encoding that the first (decompressed) bytes of a text show, "" for UTF-8.

    Args:
        head: the first bytes.
        kind: "txt", or "jsonl" for JSON of any layout.
    """
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if kind == "jsonl":
        for pattern, name in ZEROS.items():
            if len(head) >= len(pattern) and all(bool(a) == bool(b) for a, b in zip(head, pattern, strict=False)):
                return name
        return ""
    # Text without a mark: half of the bytes of UTF-16 are zero where most characters are Latin.
    even, odd, half = head[::2].count(0), head[1::2].count(0), len(head) // 2
    if max(even, odd) * 3 > half and min(even, odd) * 100 <= half:
        return "utf-16-le" if odd > even else "utf-16-be"
    return ""


@contextlib.contextmanager
def open_stream(path: str, *, compression: str, encoding: str) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """Open a file for reading UTF-8 bytes; gives the stream and a function that tells how many bytes of the file are read.

    A byte order mark of UTF-8 is left in place, one of another encoding is removed.
    """
    with cast(io.BufferedReader, open(path, "rb", buffering=2**20)) as raw:
        stream = decompressed(raw, compression)
        yield _buffered(_Chunks(_transcoded(stream, encoding))) if encoding else stream, raw.tell


def decompressed(raw: io.BufferedReader, compression: str) -> IO[bytes]:
    """Return the stream of what is in a file of this compression, one of `COMPRESSIONS` or ""."""
    if compression == ".gz":
        return _buffered(gzip.GzipFile(fileobj=raw))
    if compression == ".zst":
        return _buffered(_Chunks(_zstd(raw)))
    # An empty file is an archive of nothing, as gzip has it.
    if compression == ".bz2" and raw.peek(1):
        return _buffered(bz2.BZ2File(raw))
    return _buffered(lzma.LZMAFile(raw)) if compression == ".xz" and raw.peek(1) else raw


def part_of(stream: IO[bytes], size: int) -> IO[bytes]:
    """Return the next `size` bytes of a stream as a stream of its own."""

    def chunks() -> Iterator[bytes]:
        left = size
        while left and (chunk := stream.read(min(left, 2**20))):
            left -= len(chunk)
            yield chunk

    return _buffered(_Chunks(chunks()))


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn the errors of opening, decompressing and transcoding one file into a `UserError` that names it."""
    try:
        yield
    except Exception as error:
        if reason := unreadable(error):
            raise UserError(f"input {path} cannot be read: {reason}") from error
        raise


def unreadable(error: Exception) -> str | None:
    """Return why a file cannot be read, or None for errors that have another cause."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    damage = (OSError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, UnicodeDecodeError)
    arrow = type(error).__module__.startswith(("pyarrow", "zstandard", "zstd"))
    if isinstance(error, damage) or arrow:
        return f"{error}; the file is damaged"
    return None


def _buffered(stream: Any) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(stream, 2**20))


class _Chunks(io.RawIOBase):
    """The bytes of an iterator as a stream."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.ready = b""  # not yet given to the caller

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            chunk = next(self.chunks, None)
            if chunk is None:
                return 0
            self.ready = chunk
        count = min(len(buffer), len(self.ready))
        buffer[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count


def _zstd(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompress a sequence of zstd frames; an end inside a frame is an error (the library's own reader is silent)."""
    import zstandard

    # The largest window that the format's tools write (--long=31); the default refuses those above 128 MiB.
    context = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame, inside, pending = context.decompressobj(), False, b""
    while chunk := pending or raw.read(CHUNK):
        yield frame.decompress(chunk)
        inside, pending = not frame.eof, b""
        if frame.eof:
            pending, frame = frame.unused_data, context.decompressobj()
    if inside:
        raise EOFError("it ends inside a zstd frame")


def _transcoded(stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    """Give a text of another encoding as UTF-8; half of a surrogate pair becomes invalid UTF-8, a bad line later on."""
    text = io.TextIOWrapper(stream, encoding, errors="surrogatepass", newline="")
    start = text.read(CHUNK).removeprefix("\ufeff")
    while start:
        yield start.encode("utf-8", errors="surrogatepass")
        start = text.read(CHUNK)
    text.detach()  # else the stream is closed with it
