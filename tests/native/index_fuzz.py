"""A fuzzer of the `.idx` reader: damaged indices are read as their bytes say, or refused with a `UserError`.

    python -m tests.native.index_fuzz 1000000 1        a million inputs from seed 1, some minutes

An input is the index of a few documents, changed in one to four places: bits, counts of the header, numbers that addresses
are made of, cut or longer, or not at all. The reader is held against the format read with `struct`: what the header allows
must open with exactly the numbers of the file, every sequence must be the bytes it points to or be refused, and everything
else must be refused. `meap verify`, asked for one input in 64, must find every change and nothing in what is unchanged.
A finding is any other outcome.
"""

import hashlib
import random
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from meap_megatron.corpus.verify import verify
from meap_megatron.errors import UserError
from meap_megatron.indexed.idx_header import HEADER_BYTES, MAGIC
from meap_megatron.indexed.pair import PairWriter, length_blocks, one_sequence_per_document, open_pair, write_index
from meap_megatron.indexed.sidecar import Sidecar, TokenizerInfo, write_sidecar

DOCUMENTS = ([5, 6, 7], [8], [9, 9, 9, 9], [3] * 11, [4, 4], [10, 11], [12])
CODES = {1: "uint8", 4: "int32", 8: "uint16"}
VERIFIED = 64
"""One input in so many is given to `verify` too."""
WILD = (0, 1, -1, 7, 8, 9, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**60, 2**63 - 1, -(2**63), 2**64 - 1)


class Finding(Exception):
    """What the reader must not do."""


def write_data(prefix: Path, dtype: str) -> bytes:
    """Write a pair with a sidecar; return the bytes of its index."""
    lengths = Path(f"{prefix}.lengths")
    writer = PairWriter(Path(f"{prefix}.bin"), lengths, dtype=dtype)
    writer.add([np.array(ids, dtype=np.uint32) for ids in DOCUMENTS], before=[1], after=[2])
    writer.close()
    with open(f"{prefix}.idx", "wb") as stream:
        write_index(
            stream,
            dtype=dtype,
            num_sequences=len(DOCUMENTS),
            num_document_indices=len(DOCUMENTS) + 1,
            lengths=lambda: length_blocks([lengths]),
            document_indices=lambda: one_sequence_per_document(len(DOCUMENTS)),
        )
    data, index = Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()
    tokenizer = TokenizerInfo(
        fingerprint="f" * 64,
        folder=None,
        vocab_size=14 if dtype == "uint16" else 70_000,
        bos_id=1,
        eos_id=2,
        pad_id=None,
        mask_id=13,
        mask_token="[MASK]",
    )
    write_sidecar(
        prefix,
        Sidecar(
            kind="text",
            content_hash=hashlib.sha256(data + index).hexdigest(),
            num_documents=len(DOCUMENTS),
            num_tokens=writer.num_tokens,
            bin_bytes=len(data),
            idx_bytes=len(index),
            dtype=dtype,
            add_bos=True,
            add_eos=True,
            tokenizer=tokenizer,
            libraries={},
        ),
    )
    return index


def mutate(index: bytes, rng: random.Random) -> bytes:
    """Return a changed copy, now and then an unchanged one."""
    changed = bytearray(index)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        kind = rng.randrange(8)
        place = rng.randrange(len(changed)) if changed else 0
        if kind == 0 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[place] = rng.randrange(256)
        elif kind == 2:
            del changed[place:]
        elif kind == 3:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 8, 12, 20)))
        elif kind == 4 and len(changed) >= HEADER_BYTES:  # counts
            number = rng.choice(WILD) if rng.random() < 0.5 else rng.randrange(24)
            struct.pack_into("<Q", changed, rng.choice((9, 18, 26)), number % 2**64)
        elif kind == 5 and len(changed) >= HEADER_BYTES + 8:  # pointers and document indices
            struct.pack_into("<Q", changed, rng.randrange(HEADER_BYTES, len(changed) - 7), rng.choice(WILD) % 2**64)
        elif kind == 6 and len(changed) >= HEADER_BYTES + 4:  # lengths
            at = HEADER_BYTES + 4 * rng.randrange(len(DOCUMENTS))
            if at + 4 <= len(changed):
                struct.pack_into("<I", changed, at, rng.choice(WILD) % 2**32)
        elif kind == 7 and len(changed) >= HEADER_BYTES:  # a header that fits its body again
            body = len(changed) - HEADER_BYTES
            num_sequences = rng.randrange(body // 12 + 1)
            if (body - 12 * num_sequences) % 8 == 0:
                struct.pack_into("<QQ", changed, 18, num_sequences, (body - 12 * num_sequences) // 8)
    return bytes(changed)


def header_of(index: bytes) -> tuple[str, int, int] | None:
    """Return type and counts of an index by the format's definition, None for what is no index."""
    if len(index) < HEADER_BYTES or index[:9] != MAGIC:
        return None
    version, code, num_sequences, num_document_indices = struct.unpack_from("<QBQQ", index, 9)
    fits = len(index) == HEADER_BYTES + 12 * num_sequences + 8 * num_document_indices
    return (CODES[code], num_sequences, num_document_indices) if version == 1 and code in CODES and fits else None


def check_reader(prefix: Path, index: bytes, data: bytes) -> bool:
    """Open the pair and read every sequence; return whether the index was accepted.

    Raises:
        Finding: the reader does something else than the format says.
    """
    expected = header_of(index)
    try:
        pair = open_pair(prefix)
    except UserError:
        if expected is not None:
            raise Finding("a good header is refused") from None
        return False
    if expected is None:
        raise Finding("a bad header is accepted")
    dtype, num, num_document_indices = expected
    size = np.dtype(dtype).itemsize
    lengths = struct.unpack_from(f"<{num}i", index, HEADER_BYTES)
    pointers = struct.unpack_from(f"<{num}q", index, HEADER_BYTES + 4 * num)
    indices = struct.unpack_from(f"<{num_document_indices}q", index, HEADER_BYTES + 12 * num)
    found = (tuple(pair.lengths.tolist()), tuple(pair.pointers.tolist()), tuple(pair.document_indices.tolist()))
    if pair.dtype != np.dtype(dtype) or found != (lengths, pointers, indices):
        raise Finding("the arrays are not those of the file")
    for i in range(num):
        start, stop = pointers[i], pointers[i] + lengths[i] * size
        inside = lengths[i] >= 0 and start >= 0 and start % size == 0 and stop <= len(data) // size * size
        try:
            ids = pair[i].tobytes()
        except UserError:
            if inside:
                raise Finding(f"sequence {i} is refused, and lies in the data") from None
            continue
        if not inside or ids != data[start:stop]:
            raise Finding(f"sequence {i} is not what the index points to")
    return True


def run(folder: Path, *, num_inputs: int, seed: int) -> tuple[int, int]:
    """Try inputs; return how many of them the reader accepted and how many `verify` has seen.

    Raises:
        Finding: of the input that the message holds.
    """
    rng = random.Random(seed)
    kinds = []
    for dtype in ("uint16", "int32"):
        prefix = folder / dtype
        kinds.append((prefix, write_data(prefix, dtype), Path(f"{prefix}.bin").read_bytes()))
    accepted = verified = 0
    for number in range(num_inputs):
        prefix, good, data = kinds[number % 2]
        index = mutate(good, rng)
        Path(f"{prefix}.idx").write_bytes(index)
        try:
            accepted += check_reader(prefix, index, data)
            if rng.randrange(VERIFIED) == 0:
                verified += 1
                if all(check.passed for check in verify(prefix)) != (index == good):
                    raise Finding("verify overlooks a change, or finds one where there is none")
        except Exception as error:
            raise Finding(f"input {number}, {type(error).__name__}: {error}; {prefix.name} {index.hex()}") from error
    return accepted, verified


def main() -> int:
    """Run as the command line says."""
    if len(sys.argv) != 3:
        print("usage: python -m tests.native.index_fuzz NUM_INPUTS SEED", file=sys.stderr)
        return 2
    num_inputs, seed = int(sys.argv[1]), int(sys.argv[2])
    memory = Path("/dev/shm")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        accepted, verified = run(Path(folder), num_inputs=num_inputs, seed=seed)
    print(
        f"{num_inputs:,} indices, no finding: {accepted:,} were read and the others refused, {verified:,} went through "
        f"verify ({time.monotonic() - began:.0f} s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
