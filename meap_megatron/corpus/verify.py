"""Check a dataset byte by byte: the job of `meap verify`. Every check is one line; all findings are reported."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from meap_megatron.corpus.progress import Progress
from meap_megatron.corpus.scan import Scan, Tally, scan_tokens
from meap_megatron.corpus.sft.check import check_roles
from meap_megatron.errors import UserError, counted
from meap_megatron.indexed.idx_header import IndexHeader, read_header
from meap_megatron.indexed.pair import BLOCK, IndexedReader, open_pair
from meap_megatron.indexed.replacement import replacement
from meap_megatron.indexed.sidecar import (
    Sidecar,
    TokenizerInfo,
    bin_path,
    idx_path,
    read_sidecar,
    sidecar_path,
    tokenizer_path,
    write_sidecar,
)
from meap_megatron.tokenizer.load import CorpusTokenizer, load_tokenizer, save_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    passed: bool
    detail: str


class Checks(list[Check]):
    """The report so far."""

    def __call__(self, name: str, passed: bool, detail: str) -> bool:
        """Add a line and return whether it passed."""
        self.append(Check(name=name, passed=passed, detail=detail))
        return passed


def verify(prefix: str | Path) -> Checks:
    """Check a dataset against its sidecar; a check that another finding makes meaningless is left out."""
    check = Checks()
    sidecar = header = None
    try:
        sidecar = read_sidecar(prefix)
        check("sidecar", True, f"{sidecar.kind}, format version {sidecar.format_version}")
    except UserError as error:
        check("sidecar", False, str(error))
    try:
        header = read_header(idx_path(prefix))
        check("index header", True, f"{header.dtype}, {header.num_sequences:,} sequences")
    except UserError as error:
        check("index header", False, str(error))
    if not bin_path(prefix).is_file():
        check("bin", False, f"{bin_path(prefix)} does not exist")
        return check
    if header is None:
        return check
    pair = open_pair(prefix)
    structure = _check_structure(prefix, pair, check, adopted=sidecar is not None and not sidecar.libraries)
    if sidecar is None:
        return check
    _check_counts(prefix, header, sidecar, check)
    scan = scan_tokens(prefix, pair, sidecar.tokenizer, edges=structure, roles=sidecar.kind == "sft")
    _check_tokens(pair, scan, sidecar, structure, check)
    if sidecar.kind == "sft" and structure:
        check_roles(prefix, pair, sidecar, check)
    same = scan.content_hash == sidecar.content_hash
    found = "equals the sidecar's" if same else f"is {scan.content_hash[:16]}..., the sidecar says "
    check("content hash", same, found + ("" if same else f"{sidecar.content_hash[:16]}...: the bytes changed"))
    _check_tokenizer(prefix, sidecar.tokenizer, check)
    return check


def adopt(
    prefix: str | Path,
    *,
    tokenizer: str,
    overwrite: bool = False,
    check: Checks | None = None,
    **names: str | None,
) -> Sidecar:
    """Make the sidecar and the tokenizer folder of a pair that another tool wrote (`--write-sidecar`), reading it once.

    Whether documents open with BOS and end with EOS is read off the data. Empty documents, which Megatron's own tool
    writes for empty texts, are taken as they are: no sample contains a token of them.

    Args:
        prefix: prefix of the pair.
        tokenizer: the tokenizer that made the ids.
        overwrite: replace an existing sidecar.
        check: is given what was checked.
        names: `mask_token`, `bos_token`, `eos_token` for `load_tokenizer`.

    Raises:
        UserError: there is a sidecar already, the pair is damaged, or the ids do not fit the tokenizer.
    """
    if sidecar_path(prefix).exists() and not overwrite:
        raise UserError(f"{sidecar_path(prefix)} exists already", fix="replace it with --overwrite")
    loaded: CorpusTokenizer = load_tokenizer(tokenizer, **{name: value for name, value in names.items() if value})
    header = read_header(idx_path(prefix))
    if not bin_path(prefix).is_file():
        raise UserError(f"{bin_path(prefix)} does not exist", fix="name the prefix of the files, without .bin")
    folder = tokenizer_path(prefix)
    saved = folder.is_dir() and not overwrite
    if saved and (other := _saved(folder, loaded.info.mask_token).fingerprint) != loaded.info.fingerprint:
        raise UserError(f"{folder} contains another tokenizer ({other[:12]})", fix="replace it with --overwrite")
    pair = open_pair(prefix)
    check = Checks() if check is None else check
    structure = _check_structure(prefix, pair, check, adopted=True)
    progress = Progress(pair.tokens.nbytes, verb="verify")
    size = pair.dtype.itemsize
    scan = scan_tokens(prefix, pair, loaded.info, edges=structure, advance=lambda n: progress.copied(n * size))
    progress.finish()
    info = loaded.info
    sidecar = Sidecar(
        kind="text",
        content_hash=scan.content_hash,
        num_documents=header.num_document_indices - 1,
        num_tokens=len(pair.tokens),
        bin_bytes=bin_path(prefix).stat().st_size,
        idx_bytes=header.file_bytes,
        dtype=header.dtype,
        add_bos=structure and info.bos_id is not None and not scan.without_bos.count,
        add_eos=structure and info.eos_id is not None and not scan.without_eos.count,
        tokenizer=dataclasses.replace(info, folder=folder.name),
        libraries={},
    )
    _check_tokens(pair, scan, sidecar, structure, check)
    if findings := [f"{found.name}: {found.detail}" for found in check if not found.passed]:
        raise UserError(f"{prefix} gets no sidecar:\n  " + "\n  ".join(findings))
    replaced = [sidecar_path(prefix), *([] if saved else [folder])]
    with replacement(Path(prefix), old=replaced, last=sidecar_path(prefix)) as new:
        if not saved:
            save_tokenizer(loaded, tokenizer_path(new))
        write_sidecar(new, sidecar)
    return sidecar


def _check_structure(prefix: str | Path, pair: IndexedReader, check: Checks, *, adopted: bool) -> bool:
    """Check lengths, pointers and document indices against each other and the size of the .bin.

    Data of another tool may have empty documents, as a sequence without tokens or as a document without a sequence.

    Returns:
        Whether each sequence is a document whose first and last token can be looked at.
    """
    itemsize = pair.dtype.itemsize
    position = 0
    empty, wrong = Tally(), Tally()
    for start in range(0, len(pair), BLOCK):
        lengths = np.asarray(pair.lengths[start : start + BLOCK], dtype=np.int64)
        ends = position + np.cumsum(lengths * itemsize)
        expected = np.concatenate([[position], ends[:-1]])
        empty.add(start + np.flatnonzero(lengths < 0 if adopted else lengths <= 0))
        wrong.add(start + np.flatnonzero(expected != pair.pointers[start : start + BLOCK]))
        position = int(ends[-1])
    size = bin_path(prefix).stat().st_size
    state = "" if size == position else f": it was {'truncated' if size < position else 'grown'}"
    fits = check("bin size", size == position, f"{size:,} bytes, the index asks for {position:,}{state}")
    ordered = check(
        "pointers",
        not wrong.count,
        f"sequence {wrong.first} and {wrong.count - 1:,} more do not start where the one before ends"
        if wrong.count
        else "each sequence starts where the one before ends",
    )
    full = check("documents", not empty.count, _documents(empty, "are empty", "none is empty"))
    indices = pair.document_indices
    ascending = len(indices) > 0 and indices[0] == 0 and indices[-1] == len(pair)
    most, without = 0, 0  # sequences of a document, documents without one
    for start in range(0, len(indices) - 1, BLOCK):
        counts = np.diff(indices[start : start + BLOCK + 1])
        ascending = ascending and bool(np.all(counts >= (0 if adopted else 1)))
        most, without = max(most, int(counts.max(initial=0))), without + int(np.count_nonzero(counts == 0))
    detail = counted(len(indices) - 1, "document") + (f", {without:,} of them empty" if without else "")
    check(
        "document index",
        bool(ascending),
        detail if ascending else f"does not ascend from 0 to {len(pair):,} sequences",
    )
    return fits and ordered and full and bool(ascending) and most <= 1


def _check_counts(prefix: str | Path, header: IndexHeader, sidecar: Sidecar, check: Checks) -> None:
    wanted = {
        "bin bytes": (bin_path(prefix).stat().st_size, sidecar.bin_bytes),
        "idx bytes": (idx_path(prefix).stat().st_size, sidecar.idx_bytes),
        "documents": (header.num_document_indices - 1, sidecar.num_documents),
        "tokens": (sidecar.bin_bytes // np.dtype(sidecar.dtype).itemsize, sidecar.num_tokens),
        "dtype": (header.dtype, sidecar.dtype),
    }
    wrong = [f"{name}: found {a}, sidecar says {b}" for name, (a, b) in wanted.items() if a != b]
    check("sidecar counts", not wrong, "; ".join(wrong) or f"{counted(sidecar.num_documents, 'document')} as found")


def _check_tokens(pair: IndexedReader, scan: Scan, sidecar: Sidecar, structure: bool, check: Checks) -> None:
    tokenizer = sidecar.tokenizer

    def place(position: int | None) -> str:
        if position is None or not structure:
            return f"token {position}"
        document = int(np.searchsorted(pair.pointers, position * pair.dtype.itemsize, side="right")) - 1
        return f"token {position:,} (document {document:,})"

    outside, mask = scan.outside, scan.mask
    bad_id = None if outside.first is None else int(pair.tokens[outside.first])
    check(
        "ids",
        not outside.count,
        f"all below {tokenizer.vocab_size:,}"
        if not outside.count
        else f"{outside.count:,} ids outside 0..{tokenizer.vocab_size - 1}, first {bad_id} at {place(outside.first)}",
    )
    check(
        "mask id",
        not mask.count,
        f"{tokenizer.mask_id} does not occur"
        if not mask.count
        else f"{tokenizer.mask_id} occurs {mask.count:,} times, first at {place(mask.first)}; no text gives this id",
    )
    if not structure:
        return
    if sidecar.add_bos:
        check("start tokens", not scan.without_bos.count, _documents(scan.without_bos, "lack BOS", "all there"))
        check("doubled BOS", not scan.doubled_bos.count, _documents(scan.doubled_bos, "open with BOS BOS", "none"))
    if sidecar.add_eos:
        check("end tokens", not scan.without_eos.count, _documents(scan.without_eos, "lack EOS", "all there"))


def _check_tokenizer(prefix: str | Path, info: TokenizerInfo, check: Checks) -> None:
    if info.folder is None:
        return
    folder = Path(prefix).parent / info.folder
    try:
        found = _saved(folder, info.mask_token)
    except UserError as error:
        check("tokenizer", False, str(error))
        return
    same = found.fingerprint == info.fingerprint and found.mask_id == info.mask_id
    check("tokenizer", same, f"{folder} {'is' if same else 'is not'} the one that made the data")


def _saved(folder: Path, mask_token: str) -> TokenizerInfo:
    """Return the identity of a saved tokenizer, with the BOS and EOS tokens that its configuration names."""
    config = json.loads((folder / "tokenizer_config.json").read_text()) if folder.is_dir() else {}
    named = {role: config[role] for role in ("bos_token", "eos_token") if role in config}
    return load_tokenizer(folder, mask_token=mask_token, **named).info


def _documents(tally: Tally, what: str, none: str) -> str:
    return f"{tally.count:,} {what}, first document {tally.first:,}" if tally.first is not None else none
