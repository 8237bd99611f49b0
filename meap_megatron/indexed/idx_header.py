"""The 34 bytes at the start of Megatron's `.idx`, version 1.

    offset  bytes  content
    0       9      magic "MMIDIDX\\0\\0"
    9       8      version, uint64 = 1
    17      1      code of the type of a token id (8 = uint16, 4 = int32, ...)
    18      8      num_sequences, uint64
    26      8      num_document_indices, uint64 (documents + 1)
    34             int32[num_sequences] lengths, int64[num_sequences] pointers (bytes into the .bin),
                   int64[num_document_indices] document indices

Source: megatron.core.datasets.indexed_dataset (`_IndexWriter`). Everything is little-endian.
"""

import dataclasses
import struct
from pathlib import Path

from meap_megatron.errors import UserError, refuse_pointer

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER_BYTES = 34
# The types this package writes (Megatron knows more): token ids, and one byte per token beside SFT data.
DTYPE_CODES = {"uint8": 1, "int32": 4, "uint16": 8}
DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexHeader:
    """The parsed start of an index: type of a token id and the two counts."""

    dtype: str
    num_sequences: int
    num_document_indices: int

    @property
    def file_bytes(self) -> int:
        """Size that an index with these counts has."""
        return HEADER_BYTES + 12 * self.num_sequences + 8 * self.num_document_indices

    def pack(self) -> bytes:
        """Return the 34 bytes."""
        counts = struct.pack("<QQ", self.num_sequences, self.num_document_indices)
        return MAGIC + struct.pack("<QB", VERSION, DTYPE_CODES[self.dtype]) + counts


def optimal_dtype(vocab_size: int) -> str:
    """Return the type of a token id by Megatron's rule (`DType.optimal_dtype`): uint16 below 65,500 ids."""
    return "uint16" if vocab_size < 65500 else "int32"


def read_header(path: Path) -> IndexHeader:
    """Read and validate the header of an index, and that the file has the size that the header implies.

    Raises:
        UserError: the file is missing, too short, or has another magic, version, type or size.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
            size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(start) < HEADER_BYTES:
        raise UserError(f"{path} has {len(start)} bytes, an index has at least {HEADER_BYTES}: it was truncated")
    if not start.startswith(MAGIC):
        refuse_pointer(path)
        raise UserError(f"{path} starts with {start[:9]!r}, an index starts with {MAGIC!r}: not a Megatron index")
    version, code, num_sequences, num_document_indices = struct.unpack_from("<QBQQ", start, 9)
    if version != VERSION:
        raise UserError(f"{path} has index version {version}, only version {VERSION} is known")
    if code not in DTYPE_NAMES:
        raise UserError(f"{path} has type code {code}; token ids are uint16 (8) or int32 (4)")
    header = IndexHeader(
        dtype=DTYPE_NAMES[code], num_sequences=num_sequences, num_document_indices=num_document_indices
    )
    if size != header.file_bytes:
        raise UserError(
            f"{path} has {size:,} bytes, its own counts ({num_sequences:,} sequences, {num_document_indices:,} "
            f"document indices) ask for {header.file_bytes:,}: "
            f"it was {'truncated' if size < header.file_bytes else 'changed'}",
            fix="copy or make the dataset again",
        )
    return header
