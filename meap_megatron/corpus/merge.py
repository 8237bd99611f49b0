"""Join datasets by copying: the .bin files one after the other, the index rebuilt with moved offsets."""

import itertools
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap_megatron.corpus.progress import Progress
from meap_megatron.corpus.settings import check_output
from meap_megatron.corpus.sft.check import check_same, merged_fields
from meap_megatron.corpus.write_dataset import existing, publish
from meap_megatron.errors import UserError
from meap_megatron.indexed.pair import BLOCK, open_pair
from meap_megatron.indexed.sidecar import Sidecar, bin_path, check_prefix, roles_prefix, sidecar_path

SHARD_NAME = re.compile(r"(.*)\.shard-(\d+)-of-(\d+)")
SUFFIXES = (".roles.bin", ".roles.idx", ".bin", ".idx", ".meap.json", ".tokenizer")


def as_prefix(name: str) -> str:
    """Return the prefix that a typed name means: `c4`, `c4.bin` and `c4.idx` are all `c4`."""
    name = name.rstrip("/")
    for suffix in SUFFIXES:
        if name.endswith(suffix) and not sidecar_path(name).exists():
            return name.removesuffix(suffix)
    return name


def merge(output: str | Path, inputs: list[str], *, overwrite: bool = False) -> Sidecar:
    """Join datasets in the order given; the shards of one SLURM array in the order of their numbers.

    Args:
        output: prefix of the result.
        inputs: prefixes; a prefix that is named by several of its files counts once.
        overwrite: replace an existing result.

    Raises:
        UserError: the output is a folder, an input is damaged, a shard is missing, or the inputs differ in tokenizer,
            type or policy.
        RunError: the disk is full; nothing half-written is left.
    """
    check_output(output)
    prefixes = order_shards(list(dict.fromkeys(as_prefix(name) for name in inputs)))
    if Path(output).resolve() in [Path(prefix).resolve() for prefix in prefixes]:
        raise UserError(f"{output} is both an input and the output of merge", fix="choose another output")
    if not overwrite and (found := existing(output)):
        raise UserError(f"{found[0]} exists already", fix="choose another output, or replace it with --overwrite")
    sidecars = [check_prefix(prefix) for prefix in prefixes]
    first = sidecars[0]
    check_same(prefixes, map(_decisive, sidecars), fix="encode both with the same tokenizer and options")
    sft = merged_fields(prefixes, sidecars) if first.kind == "sft" else None
    pairs = [open_pair(prefix) for prefix in prefixes]
    folders = [
        folder
        for prefix, sidecar in zip(prefixes, sidecars, strict=True)
        if sidecar.tokenizer.folder and (folder := Path(prefix).parent / sidecar.tokenizer.folder).is_dir()
    ]
    Path(output).parent.mkdir(parents=True, exist_ok=True)

    def lengths() -> Iterator[NDArray[np.int32]]:
        for pair in pairs:
            for start in range(0, len(pair), BLOCK):
                yield pair.lengths[start : start + BLOCK]

    def document_indices() -> Iterator[NDArray[np.int64]]:
        yield np.zeros(1, dtype=np.int64)
        offset = 0
        for pair in pairs:
            for start in range(1, len(pair.document_indices), BLOCK):
                yield pair.document_indices[start : start + BLOCK] + offset
            offset += len(pair)

    progress = Progress(sum(bin_path(prefix).stat().st_size for prefix in prefixes), verb="merge")
    merged = publish(
        output,
        sources=[bin_path(prefix) for prefix in prefixes],
        lengths=lengths,
        document_indices=document_indices,
        num_sequences=sum(map(len, pairs)),
        num_documents=sum(len(pair.document_indices) - 1 for pair in pairs),
        dtype=first.dtype,
        tokenizer=first.tokenizer,
        save_tokenizer=partial(_copy_folder, folders[0]) if folders else None,
        role_sources=[bin_path(roles_prefix(prefix)) for prefix in prefixes] if first.kind == "sft" else None,
        fields={
            "kind": first.kind,
            "add_bos": first.add_bos,
            "add_eos": first.add_eos,
            "libraries": dict(itertools.chain.from_iterable(s.libraries.items() for s in reversed(sidecars))),
            "sft": sft,
        },
        copied=progress.copied,
    )
    progress.finish(always=False)
    return merged


def order_shards(prefixes: list[str]) -> list[str]:
    """Put the shards of one run in the order of their numbers; other prefixes stay as they are.

    Raises:
        UserError: all inputs are shards of one run and some are missing.
    """
    names = [SHARD_NAME.fullmatch(prefix) for prefix in prefixes]
    shards = {int(name[2]): name[0] for name in names if name}
    runs = {(name[1], int(name[3])) for name in names if name}
    if len(shards) < len(prefixes) or len(runs) != 1:
        return prefixes
    (base, count) = next(iter(runs))
    if missing := sorted(set(range(count)) - set(shards)):
        raise UserError(
            f"shards {missing[:8]} of {count} of {base} are missing",
            fix=f"make them first (--shard {missing[0]}/{count})",
        )
    return [shards[index] for index in range(count)]


def _decisive(sidecar: Sidecar) -> dict[str, Any]:
    """Return what datasets that are merged have in common."""
    return {
        "kind": sidecar.kind,
        "tokenizer fingerprint": sidecar.tokenizer.fingerprint,
        "mask id": sidecar.tokenizer.mask_id,
        "dtype": sidecar.dtype,
        "add_bos": sidecar.add_bos,
        "add_eos": sidecar.add_eos,
    }


def _copy_folder(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
