"""Put a dataset under its final names: data copied and hashed in one pass; what it replaces stays until it is complete."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.concatenate import Joining, copy_hashed
from meap_megatron.indexed.pair import write_index
from meap_megatron.indexed.replacement import finish, replacement
from meap_megatron.indexed.sidecar import (
    Sidecar,
    TokenizerInfo,
    bin_path,
    idx_path,
    roles_prefix,
    sidecar_path,
    tokenizer_path,
    write_sidecar,
)


def existing(prefix: str | Path) -> list[Path]:
    """Return the files that a dataset of this prefix has and that exist."""
    finish(Path(prefix), last=sidecar_path(prefix))
    roles = roles_prefix(prefix)
    paths = (*_data_paths(prefix), sidecar_path(prefix), tokenizer_path(prefix), *_data_paths(roles))
    return [path for path in paths if path.exists()]


def publish(
    prefix: str | Path,
    *,
    sources: Iterable[Path] | Joining,
    lengths: Callable[[], Iterable[NDArray[np.int32]]],
    document_indices: Callable[[], Iterable[NDArray[np.int64]]],
    num_sequences: int,
    num_documents: int,
    dtype: str,
    tokenizer: TokenizerInfo,
    save_tokenizer: Callable[[Path], None] | None,
    fields: dict[str, Any],
    role_sources: Iterable[Path] | None = None,
    copied: Callable[[int], None] = lambda size: None,
) -> Sidecar:
    """Write .bin, .idx, tokenizer and sidecar of a prefix, replacing what is there; for SFT data the roles too.

    Args:
        prefix: the final prefix.
        sources: files whose bytes, one after the other, are the .bin; or what joins them already.
        lengths: gives the sequence lengths in blocks; called twice.
        document_indices: gives the document indices in blocks.
        num_sequences: number of lengths.
        num_documents: number of document indices - 1.
        dtype: type of a token id.
        tokenizer: identity of the tokenizer; its folder is set here.
        save_tokenizer: writes the tokenizer into the folder it is given; None when there is none to save.
        fields: the sidecar's kind, add_bos, add_eos, libraries, plan (unless merged) and, for SFT data, sft without the
            sizes of the roles.
        role_sources: files whose bytes, one after the other, are the .roles.bin (SFT data); None for text.
        copied: is told how many bytes of `sources` were copied, block by block.

    Raises:
        RunError: the disk is full; nothing half-written is left and what was there before is still there.
    """
    digest = sources.digest if isinstance(sources, Joining) else hashlib.sha256()

    def write_pair(at: str | Path, sources: Iterable[Path] | Joining, dtype: str) -> tuple[int, int]:
        """Write and hash one pair; return the sizes of both files."""
        bin_file, idx_file = _data_paths(at)
        if isinstance(sources, Joining):
            bin_bytes = sources.finish(bin_file)
        else:
            with bin_file.open("wb") as stream:
                for source in sources:
                    copy_hashed(source, stream, digest, copied=copied)
                bin_bytes = stream.tell()
        with idx_file.open("wb") as stream:
            write_index(
                stream,
                dtype=dtype,
                num_sequences=num_sequences,
                num_document_indices=num_documents + 1,
                lengths=lengths,
                document_indices=document_indices,
            )
            idx_bytes = stream.tell()
        with idx_file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
        return bin_bytes, idx_bytes

    with replacement(Path(prefix), old=existing(prefix), last=sidecar_path(prefix)) as new:
        bin_bytes, idx_bytes = write_pair(new, sources, dtype)
        if role_sources is not None:
            sizes = write_pair(roles_prefix(new), role_sources, "uint8")
            names = ("roles_bytes", "roles_idx_bytes")
            fields = {**fields, "sft": {**fields["sft"], **dict(zip(names, sizes, strict=True))}}
        if save_tokenizer is not None:
            save_tokenizer(tokenizer_path(new))
        folder = tokenizer_path(prefix).name if save_tokenizer is not None else None
        sidecar = Sidecar(
            content_hash=digest.hexdigest(),
            num_documents=num_documents,
            num_tokens=bin_bytes // np.dtype(dtype).itemsize,
            bin_bytes=bin_bytes,
            idx_bytes=idx_bytes,
            dtype=dtype,
            tokenizer=dataclasses.replace(tokenizer, folder=folder),
            **fields,
        )
        write_sidecar(new, sidecar)
    return sidecar


def _data_paths(prefix: str | Path) -> tuple[Path, Path]:
    return bin_path(prefix), idx_path(prefix)
