"""Read every byte of a pair once, at the speed of the disk, and note what `verify` judges.

One pass over the .bin in chunks: hash, range of the ids, the mask id, and the first and last ids of the documents
that begin or end in the chunk. One thread hashes, which is most of the work, the others look at the chunks ahead of it.
Memory does not grow with the data.
"""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.workers import available_cpus
from meap_megatron.indexed.pair import IndexedReader
from meap_megatron.indexed.sidecar import TokenizerInfo, bin_path, idx_path, roles_prefix

CHUNK = 2**22  # tokens


@dataclasses.dataclass(kw_only=True)
class Tally:
    """How often something was seen, and where first."""

    count: int = 0
    first: int | None = None  # token position, or document

    def add(self, positions: NDArray[np.int64]) -> None:
        """Count positions, ascending."""
        if len(positions):
            self.count += len(positions)
            self.first = int(positions[0]) if self.first is None else self.first

    def join(self, later: "Tally") -> None:
        """Add what was counted further on."""
        self.count += later.count
        self.first = later.first if self.first is None else self.first


@dataclasses.dataclass(kw_only=True)
class Scan:
    """What a pass over the data saw; the tallies of documents hold document numbers, the others token positions."""

    content_hash: str = ""
    outside: Tally = dataclasses.field(default_factory=Tally)  # ids below 0 or not below the vocabulary size
    mask: Tally = dataclasses.field(default_factory=Tally)  # the mask id
    without_bos: Tally = dataclasses.field(default_factory=Tally)  # documents that do not start with BOS
    doubled_bos: Tally = dataclasses.field(default_factory=Tally)  # documents that start with BOS BOS
    without_eos: Tally = dataclasses.field(default_factory=Tally)  # documents that do not end with EOS

    def join(self, later: "Scan") -> None:
        """Add what the next chunk holds."""
        for field in dataclasses.fields(self):
            if isinstance(own := getattr(self, field.name), Tally):
                own.join(getattr(later, field.name))


def scan_tokens(
    prefix: str | Path,
    pair: IndexedReader,
    tokenizer: TokenizerInfo,
    *,
    edges: bool,
    roles: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> Scan:
    """Scan a pair.

    Args:
        prefix: prefix of the pair.
        pair: the opened pair.
        tokenizer: vocabulary size and special ids to compare with.
        edges: look at the ends of the documents; needs pointers and lengths that fit each other and the .bin.
        roles: the content hash covers the roles of fine-tuning data too.
        advance: is told about every further token that was read.
    """
    scan = Scan()
    digest = hashlib.sha256()
    threads = max(1, available_cpus() - 1)
    ahead: deque[Future[Scan]] = deque()
    starts = range(0, len(pair.tokens), CHUNK)
    with ThreadPoolExecutor(threads) as pool:
        for number, start in enumerate(starts):
            for following in starts[number + len(ahead) : number + threads + 1]:
                ahead.append(pool.submit(_scan_chunk, pair, tokenizer, following, edges))
            chunk = pair.tokens[start : start + CHUNK]
            digest.update(memoryview(np.ascontiguousarray(chunk)).cast("B"))
            scan.join(ahead.popleft().result())
            advance(len(chunk))
    _hash_rest(digest, prefix, pair, roles=roles)
    scan.content_hash = digest.hexdigest()
    return scan


def _scan_chunk(pair: IndexedReader, tokenizer: TokenizerInfo, start: int, edges: bool) -> Scan:
    """Look at the tokens from `start` on."""
    scan = Scan()
    chunk = pair.tokens[start : start + CHUNK]
    highest = int(chunk.max())
    if highest >= tokenizer.vocab_size or (chunk.dtype.kind == "i" and chunk.min() < 0):
        scan.outside.add(start + np.flatnonzero((chunk < 0) | (chunk >= tokenizer.vocab_size)))
    if highest >= tokenizer.mask_id:
        scan.mask.add(start + np.flatnonzero(chunk == tokenizer.mask_id))
    if edges:
        _scan_edges(scan, pair, tokenizer, chunk, start)
    return scan


def _scan_edges(scan: Scan, pair: IndexedReader, tokenizer: TokenizerInfo, chunk: NDArray, start: int) -> None:
    """Look at the documents whose first, second or last token lies in the chunk."""
    stop, itemsize = start + len(chunk), pair.dtype.itemsize

    def documents(shift: int) -> tuple[NDArray[np.int64], NDArray]:
        """Return the documents whose token number `shift` lies in the chunk, and that token."""
        low, high = np.searchsorted(pair.pointers, [(start - shift) * itemsize, (stop - shift) * itemsize])
        numbers = np.arange(low, high, dtype=np.int64)
        at = pair.pointers[low:high] // itemsize + shift - start
        inside = at < len(chunk)
        return numbers[inside], chunk[at[inside]]

    if tokenizer.bos_id is not None:
        numbers, first = documents(0)
        scan.without_bos.add(numbers[(first != tokenizer.bos_id) & (pair.lengths[numbers] > 0)])
        numbers, second = documents(1)
        scan.doubled_bos.add(numbers[(second == tokenizer.bos_id) & (pair.lengths[numbers] > 1)])
    if tokenizer.eos_id is not None:
        # The last token of a document is the one before the next document's first.
        numbers, last = documents(-1)
        before = numbers - 1
        has_tokens = (before >= 0) & (pair.lengths[np.maximum(before, 0)] > 0)
        scan.without_eos.add(before[(last != tokenizer.eos_id) & has_tokens])
        if stop == len(pair.tokens) and chunk[-1] != tokenizer.eos_id and pair.lengths[-1] > 0:
            scan.without_eos.add(np.array([len(pair) - 1]))


def _hash_rest(digest: "hashlib._Hash", prefix: str | Path, pair: IndexedReader, *, roles: bool) -> None:
    """Hash the bytes of a torn last token, if any, then the index, then the roles."""
    with bin_path(prefix).open("rb") as stream:
        stream.seek(len(pair.tokens) * pair.dtype.itemsize)
        digest.update(stream.read())
    beside = (bin_path(roles_prefix(prefix)), idx_path(roles_prefix(prefix))) if roles else ()
    for path in (idx_path(prefix), *beside):
        if path.is_file():
            with path.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
