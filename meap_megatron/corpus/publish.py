"""Put a dataset under its final names: data copied and hashed in one pass, each file complete before it appears.

The sidecar of a dataset that is replaced goes first and the new one comes last, so that no sidecar ever stands beside
files that it does not describe.
"""

import contextlib
import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.atomic import disk_errors, sync_file, sync_folder
from meap_megatron.corpus.indexed import write_index
from meap_megatron.corpus.joining import COPY_BYTES, Joining, copy_hashed
from meap_megatron.corpus.sidecar import (
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

    Raises:
        RunError: the disk is full; nothing half-written is left and what was there before is still there.
    """
    final = [*_data_paths(prefix), tokenizer_path(prefix), *_data_paths(roles_prefix(prefix))]
    temporary = [path.with_name(f".{path.name}.tmp") for path in final]
    digest = sources.digest if isinstance(sources, Joining) else hashlib.sha256()

    def write_pair(bin_file: Path, idx_file: Path, sources: Iterable[Path] | Joining, dtype: str) -> tuple[int, int]:
        """Write and hash one pair; return the sizes of both files."""
        if isinstance(sources, Joining):
            bin_bytes = sources.finish(bin_file)
        else:
            with bin_file.open("wb") as stream:
                for source in sources:
                    copy_hashed(source, stream, digest)
                bin_bytes = stream.tell()
                _sync(stream)
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
            _sync(stream)
        with idx_file.open("rb") as stream:
            while chunk := stream.read(COPY_BYTES):
                digest.update(chunk)
        return bin_bytes, idx_bytes

    with disk_errors(final[0]), _removed_on_error(temporary):
        _remove(temporary)
        bin_bytes, idx_bytes = write_pair(temporary[0], temporary[1], sources, dtype)
        if role_sources is not None:
            sizes = write_pair(temporary[3], temporary[4], role_sources, "uint8")
            names = ("roles_bytes", "roles_idx_bytes")
            fields = {**fields, "sft": {**fields["sft"], **dict(zip(names, sizes, strict=True))}}
        if save_tokenizer is not None:
            save_tokenizer(temporary[2])
            for path in temporary[2].iterdir():
                sync_file(path)
        sidecar = Sidecar(
            content_hash=digest.hexdigest(),
            num_documents=num_documents,
            num_tokens=bin_bytes // np.dtype(dtype).itemsize,
            bin_bytes=bin_bytes,
            idx_bytes=idx_bytes,
            dtype=dtype,
            tokenizer=_with_folder(tokenizer, final[2].name if save_tokenizer else None),
            **fields,
        )
        sidecar_path(prefix).unlink(missing_ok=True)
        for source, target in zip(temporary, final, strict=True):
            if target.is_dir():
                shutil.rmtree(target)
            elif not source.exists():
                target.unlink(missing_ok=True)
            if source.exists():
                os.replace(source, target)
        sync_folder(final[0].parent)
        write_sidecar(prefix, sidecar)
    return sidecar


def _data_paths(prefix: str | Path) -> tuple[Path, Path]:
    return bin_path(prefix), idx_path(prefix)


def tokenizer_saved(prefix: str | Path, save: Callable[[Path], None]) -> None:
    """Write the tokenizer folder of a prefix, replacing what is there.

    Raises:
        RunError: the disk is full; nothing half-written is left.
    """
    target = tokenizer_path(prefix)
    temporary = target.with_name(f".{target.name}.tmp")
    with disk_errors(target), _removed_on_error([temporary]):
        _remove([temporary])
        save(temporary)
        _remove([target])
        os.replace(temporary, target)


def _sync(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _with_folder(tokenizer: TokenizerInfo, folder: str | None) -> TokenizerInfo:
    return dataclasses.replace(tokenizer, folder=folder)


@contextlib.contextmanager
def _removed_on_error(paths: list[Path]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(paths)
        raise


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
